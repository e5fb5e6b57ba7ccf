"""README.md is short, its links and those of docs/ lead somewhere, and it leads to every page of docs/; the tree of files is true."""

import errno
import os
import re
from pathlib import Path

import pytest

from tests.house.tree import LONGEST, PAGE, ROOMS, ROOT, first_sentence, page_with_tree

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MAX_README_BYTES = 10_000


def prose(text: str) -> str:
    """Markdown without its blocks of code."""
    return re.sub(r"^(```|~~~).*?^\1\s*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """Targets of links and pictures that are no URLs."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", prose(text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.add(next(one for one in (name, *(f"{name}-{count}" for count in range(1, 100))) if one not in found))
    return found


def broken(page: Path, text: str) -> list[str]:
    """The links in a page's text that lead to no file, or to no heading of one."""
    wrong = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        found = target.exists()
        if found and anchor:
            found = anchor in anchors(text if target == page else target.read_text("utf-8"))
        if not found:
            wrong.append(link)
    return wrong


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MAX_README_BYTES


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert not broken(page, page.read_text("utf-8"))


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in links(README.read_text("utf-8"))}
    assert {f"docs/{page.name}" for page in PAGES} <= linked


def test_a_broken_link_is_seen() -> None:
    text = "# One `make x`: two\n## Two\n## Two\n```\n# no heading\n[no](link.md)\n```\n"
    good = (
        "[a](#one-make-x-two) [b](#two-1) [`c`](docs/data.md#layouts) ![d](docs/page.png) [e](https://example.org/#f)"
    )
    bad = ["#no-heading", "#two-2", "docs/no.md", "docs/data.md#no", "docs/no.png"]
    assert broken(README, text + good) == []
    assert broken(README, text + " ".join(f"[x]({link})" for link in bad)) == bad


def test_the_tree_of_files_is_the_one_that_make_tree_writes() -> None:
    page = PAGE.read_text("utf-8")
    assert page == page_with_tree(page), "run `make tree`"


def test_every_modules_first_sentence_fits_its_line() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    sentences = {path.relative_to(ROOT).as_posix(): first_sentence(path) for path in paths}
    assert {name: said for name, said in sentences.items() if not 0 < len(said) <= LONGEST} == {}


def test_the_messages_in_troubleshooting_are_those_of_the_programs() -> None:
    programs = [ROOT / "Makefile", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    sources = "".join(path.read_text("utf-8") for path in programs) + os.strerror(errno.ENOSPC)
    sources = re.sub(r'"\s+f?"', "", sources)  # a string over several lines
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8").partition("## Containers")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(quoted) > 10
    # "..." stands for the values that a message names, and brackets for words of the system
    parts = [max(re.split(r"\.\.\.|\(.*", quote), key=len).strip(" ;:,.") for quote in quoted]
    assert [part for part in parts if part not in sources] == []
