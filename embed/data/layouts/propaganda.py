"""Propaganda memes (SemEval-2021 task 6, subtask 3): JSON arrays in `.txt`; no technique means harmless."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.layouts.reading import Fields, Reading, split_in
from embed.data.tables import Row

_PATTERN = "*_set_task3*.txt"


def recognise(folder: Path) -> bool:
    """Whether there is one of its tables."""
    return bool(_tables(folder))


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows; each table's pictures lie in a folder of its name."""
    for split in ("train", "validation", "test"):
        for table in _tables(reading.folder):
            if split_in(table.stem) == split:
                yield from reading.table(table, split, {"label": "labels"}, _change)


def _tables(folder: Path) -> list[Path]:
    found = sorted([*folder.glob(_PATTERN), *folder.glob(f"*/{_PATTERN}")])
    # the shared task gave the same memes again with labels
    labelled = {path.name.replace("_labeled", "") for path in found if "_labeled" in path.name}
    return [path for path in found if path.name not in labelled and split_in(path.stem)]


def _change(fields: Fields) -> Fields:
    techniques = fields.get("label")
    return fields | {"label": int(bool(techniques)) if isinstance(techniques, list) else None}
