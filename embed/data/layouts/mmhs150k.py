"""MMHS150K: one object by id, three annotators' numbers; splits and words on the pictures in other files."""

import json
from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.layouts.reading import Fields, Reading
from embed.data.tables import Row

_TABLE = "MMHS150K_GT.json"
_SPLITS = {"train_ids.txt": "train", "val_ids.txt": "validation", "test_ids.txt": "test"}


def recognise(folder: Path) -> bool:
    """Whether its table is there."""
    return (folder / _TABLE).is_file()


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows, as published; of the annotators' numbers 0 is no hate, and the majority counts."""
    split_of: dict[str, str] = {}
    for name, split in _SPLITS.items():
        file = reading.folder / "splits" / name
        split_of |= dict.fromkeys(file.read_text("utf-8").split() if file.is_file() else (), split)

    def change(fields: Fields) -> Fields:
        number = fields["id"]
        votes = (
            [int(kind > 0) for kind in fields["label"]]
            if isinstance(fields.get("label"), list)
            else fields.get("label")
        )
        text = _words(reading.folder / "img_txt" / f"{number}.json")
        picture = {"image": f"{number}.jpg", "folders": ("img_resized",)}
        return fields | picture | {"text": text, "label": votes, "split": split_of.get(number)}

    yield from reading.table(reading.folder / _TABLE, "train", {"image": "id", "label": "labels"}, change)


def _words(file: Path) -> str:
    """The words on a picture, "" where none were read."""
    if "/" in file.stem or not file.is_file():
        return ""
    value = json.loads(file.read_text("utf-8"))
    return value.get("img_text", "") if isinstance(value, dict) else ""
