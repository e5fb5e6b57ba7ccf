"""Memotion 3: tab-separated `.csv` whose first column, without a name, is the picture `<id>.jpg`."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.layouts.reading import Fields, Reading
from embed.data.tables import Row

_FILES = (("memotion_train.csv", "train", "trainImages"), ("memotion_val.csv", "validation", "valImages"))


def recognise(folder: Path) -> bool:
    """Whether there is one of its tables."""
    return any((folder / name).is_file() for name, _, _ in _FILES)


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows; the same number in train and validation is not the same meme."""
    for name, split, pictures in _FILES:

        def change(fields: Fields, split: str = split, pictures: str = pictures) -> Fields:
            number = fields["image"]
            return fields | {"id": f"{split}/{number}", "image": f"{number}.jpg", "folders": (pictures,)}

        if (reading.folder / name).is_file():
            yield from reading.table(
                reading.folder / name, split, {"image": "", "label": "offensive", "text": "ocr"}, change
            )
