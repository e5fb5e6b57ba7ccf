"""The lists of files in the rooms' READMEs name every module and no other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(room: str) -> set[str]:
    """Paths within the room, "folds.py" or "data/folds.py"."""
    paths = (path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py"))
    return {path.as_posix() for path in paths if path.name != "__init__.py"}


@pytest.mark.parametrize("room", ["demo", "bench"])
def test_a_rooms_own_readme_lists_its_files(room: str) -> None:
    text = (ROOT / room / "README.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)) == modules(room)
