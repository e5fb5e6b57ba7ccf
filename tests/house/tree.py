"""The tree of files in docs/architecture.md, from the first sentence of each module: `make tree` writes it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = ("cache", "embed", "head", "report", "api", "finetune", "container", "demo", "bench")
LONGEST = 110
_MARKS = re.compile(r"<!-- tree -->.*<!-- end of tree -->", re.DOTALL)


def first_sentence(path: Path) -> str:
    """Of a module's docstring, without its full stop."""
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])[.](?: |$)", paragraph)[0].rstrip(":")


def page_with_tree(page: str) -> str:
    """The page with the tree as the files are now."""
    blocks = [f"### {room}\n\n```\n{_tree(ROOT / room)}\n```" for room in ROOMS]
    return _MARKS.sub(lambda _: "\n\n".join(["<!-- tree -->", *blocks, "<!-- end of tree -->"]), page)


def _tree(room: Path) -> str:
    paths = [path for path in sorted(room.rglob("*.py")) if path.name != "__init__.py" or path.parent != room]
    # a sub-room's own line stands before its files
    paths.sort(key=lambda path: (path.parent != room, path.parent.as_posix(), path.name != "__init__.py", path.name))
    names = [path.relative_to(room).as_posix().removesuffix("__init__.py") for path in paths]
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {first_sentence(path)}" for name, path in zip(names, paths))


if __name__ == "__main__":
    PAGE.write_text(page_with_tree(PAGE.read_text("utf-8")), "utf-8")
