"""Harm-C and Harm-P (HarMeme): `labels` holds the harm, then the target; a `""` may stand first."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.layouts.reading import Fields, Reading
from embed.data.tables import Row, read_table

_FILES = (("train", "train"), ("val", "validation"), ("test", "test"))
_HARM = ("not harmful", "somewhat harmful", "very harmful")


def recognise(folder: Path) -> bool:
    """Whether the labels of the first row say how harmful it is."""
    first = next((row for table, _ in _tables(folder) for row in read_table(table)), None)
    return isinstance(first, tuple) and _harm(first[1].get("label")) is not None


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows; somewhat and very harmful memes are offensive, unless POSITIVE says otherwise."""
    for table, split in _tables(reading.folder):
        yield from reading.table(table, split, {"label": "labels"}, _change)


def _tables(folder: Path) -> list[tuple[Path, str]]:
    named = [(folder / f"{name}{version}.jsonl", split) for name, split in _FILES for version in ("", "_v1")]
    return [(path, split) for path, split in named if path.is_file()]


def _change(fields: Fields) -> Fields:
    label = fields.get("label")
    return fields | {"label": _harm(label) if isinstance(label, list) else label}


def _harm(labels: object) -> str | None:
    return next((word for word in labels if word in _HARM), None) if isinstance(labels, list) else None
