"""The audit's page: one HTML file, with thumbnails in it.

Everything in it that comes from the data is escaped, by Jinja2. `python -m embed audit DATA` writes it.
"""

from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cache import write_bytes_atomically
from embed.audit.findings import LABELS, Finding, Group
from embed.base.threads import run_ahead
from embed.data.dataset import Meme
from embed.pictures.thumbnails import thumbnail

# Groups with pictures: a page of some megabytes, which a browser opens at once.
_GROUPS = 100
# Of a group of many; the others are counted.
_MEMES = 4
_ROWS = 200
# Of a thumbnail's longer side, in pixels.
_SIDE = 240
# Characters of a text.
_TEXT = 400
_TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")


def write_page(path: Path, name: str, root: Path, heading: list[str], findings: list[Finding]) -> None:
    """Write the page. name: of the data; heading: lines, the first word or words of each a name; root: of the pictures.

    Raises OSError when it cannot be written.
    """
    environment = Environment(
        loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cut"] = _cut
    shown = _choose(findings)
    memes = [meme for groups in shown.values() for group in groups for meme in group.memes[:_MEMES]]
    page = environment.get_template("audit.html").render(
        title=f"What is odd about {name}",
        heading=heading,
        findings=findings,
        shown=shown,
        thumbnails=_thumbnails(root, memes),
        labels=LABELS,
        most_memes=_MEMES,
        most_rows=_ROWS,
    )
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))


def _choose(findings: list[Finding]) -> dict[str, list[Group]]:
    """The groups of each finding that are shown: a fair share of the page for each, the gravest first as they come."""
    chosen: dict[str, list[Group]] = {finding.name: [] for finding in findings}
    left = _GROUPS
    for place in range(_GROUPS):
        for finding in findings:
            if left and place < len(finding.groups):
                chosen[finding.name].append(finding.groups[place])
                left -= 1
    return chosen


def _thumbnails(root: Path, memes: Iterable[Meme]) -> dict[str, str]:
    """{image: data URI}, "" for what cannot be shown."""
    names = list(dict.fromkeys(meme.image for meme in memes if not meme.problem))
    made = run_ahead(lambda name: thumbnail(root / name, _SIDE), names, len(names) + 1)
    return dict(zip(names, made, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
