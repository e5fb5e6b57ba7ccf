"""A folder per label and no table: `offensive/` and `non-offensive/`, perhaps below `train/`, `val/`, `test/`."""

from collections.abc import Iterator
from pathlib import Path

from cache import SPLITS
from embed.base.errors import RowError
from embed.data.labels import LabelReader
from embed.data.layouts.reading import Reading, split_in
from embed.data.tables import Row
from embed.pictures.locate import SUFFIXES


def recognise(folder: Path) -> bool:
    """Whether folders below are named by known labels."""
    return folder.is_dir() and any(LabelReader().known(label.name) for _, label in _folders(folder))


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """One row for each picture file, sorted by name."""
    labels = LabelReader(reading.choices.positive_words)
    for split, folder in sorted(_folders(reading.folder), key=lambda item: (SPLITS.index(item[0]), item[1])):
        place = folder.relative_to(reading.folder).as_posix()
        pictures = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
        )
        if not labels.known(folder.name) and not labels.positive:
            if pictures:
                reading.understood.left_out[f"{place}/"] = (
                    f"{len(pictures)} picture{'s' * (len(pictures) != 1)}; its name is no label (POSITIVE= says which are)"
                )
            continue
        reading.understood.rows[f"{place}/"] = len(pictures)
        for path in pictures:
            name = path.relative_to(reading.folder).as_posix()
            yield name, {"image": name, "label": folder.name, "default_split": split, "folders": ("",)}


def _folders(data: Path) -> list[tuple[str, Path]]:
    """(split, folder) of the folders that may be named by a label."""
    found = []
    for folder in _inside(data):
        split = split_in(folder.name)
        found += [(split, label) for label in _inside(folder)] if split else [("train", folder)]
    return found


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
