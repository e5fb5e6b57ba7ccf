"""Read a folder of memes in one of the layouts people have; make every published label spelling 1 or 0.

It opens the tables, not the pictures, and knows nothing of CLIP or of vectors.

    MultiOFF        Split Dataset/{Training,Validation,Testing}_*.csv and Labelled Images/
    Hateful Memes   train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/
    plain CSV       any .csv in the folder (or the .csv itself), with named columns and perhaps a `split` column
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from embed.tables import DatasetError, find_tables, read_table
from embed.text import clean_text

_LABELS = {
    **dict.fromkeys(("offensive", "offensiv", "hateful", "true", "1", "1.0"), 1),
    **dict.fromkeys(
        ("nonoffensive", "nonoffensiv", "notoffensive", "nothateful", "nonhateful", "false", "0", "0.0"), 0
    ),
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_ORDER = ("train", "validation", "test")
_IMAGE_FOLDERS = ("Labelled Images", "", "images", "img")
UNLABELLED = -1


@dataclass(frozen=True)
class Meme:
    """One row of a data set.

    image: path inside the data folder, as POSIX; text: cleaned, may be empty; label: 1 offensive, 0 not,
    -1 unlabelled; split: "train" | "validation" | "test"; where: file and row; problem: "" or why it is skipped.
    """

    id: str
    image: str
    text: str
    label: int
    split: str
    where: str
    problem: str = ""


def read_dataset(data: Path) -> tuple[Path, list[Meme]]:
    """Read every row that the folder (or the one CSV) names: the pictures' root, and the rows, in file order.

    Raises DatasetError for no such folder, no table, a missing column, an unknown label or split. A row that cannot
    be used on its own account (no such file, its id came before) is kept, with its `problem`.
    """
    # train, validation, test, whatever the alphabet says: of a meme that is listed twice, the first row stays
    tables = sorted(find_tables(data), key=lambda table: _ORDER.index(_split_in(table.stem) or "train"))
    root = data if data.is_dir() else data.parent
    rows = [meme for table in tables for meme in _read_memes(table, root, alone=len(tables) == 1)]
    if not rows:
        raise DatasetError(f"{data}: its tables hold no rows")
    return root, _mark_repeats(rows)


def parse_label(value: Any) -> int:
    """1 for offensive, 0 for not, from any published spelling. Raises ValueError for anything else."""
    written = str(value).strip().lower()
    # Only words are spelled with hyphens and the like: "-1" is not a spelling of 1.
    spelling = written if any(c.isdigit() for c in written) else re.sub(r"[^a-z]", "", written)
    if spelling not in _LABELS:
        raise ValueError(f"unknown label {value!r}; write offensive or non-offensive (or 1 or 0)")
    return _LABELS[spelling]


def _split_in(name: str) -> str | None:
    """The split that a file's name or a cell speaks of: `Training_meme_dataset`, `dev_seen`, `memes-test`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _read_memes(table: Path, root: Path, alone: bool) -> Iterator[Meme]:
    for where, fields in read_table(table):
        # One table may be all there is to train on; among several, each has to say which it is.
        default = _split_in(table.stem) or ("train" if alone else None)
        try:
            yield _meme(fields, root, default, where)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error


def _meme(fields: dict[str, Any], root: Path, default_split: str | None, where: str) -> Meme:
    name = clean_text(str(fields["image"] or ""))
    if not name:
        raise ValueError("no image name; give the picture's file name or delete the row")
    written = fields.get("split")
    split = _split_in(str(written)) if written else default_split
    if split is None:
        raise ValueError(
            f"unknown split {written!r}; write train, validation or test"
            if written
            else "which split? Name the file train, validation or test, or give it a column `split`"
        )
    label = fields["label"]
    image, problem = _find_image(root, name)
    return Meme(
        id=clean_text(str(name if fields.get("id") in (None, "") else fields["id"])),
        image=image,
        text=clean_text(str(fields["text"] or "")),
        label=UNLABELLED if label is None else parse_label(label),
        split=split,
        where=where,
        problem=problem,
    )


def _find_image(root: Path, name: str) -> tuple[str, str]:
    """The picture's path inside `root`, and "" or why it cannot be used."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        return name, "its path leads out of the data folder"
    candidates = [(PurePosixPath(folder) / relative).as_posix() for folder in _IMAGE_FOLDERS]
    found = next((c for c in candidates if _is_file(root / c)), None)
    return (found, "") if found else (name, "no such file in the data folder")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False


def _mark_repeats(rows: list[Meme]) -> list[Meme]:
    """A second row of one id is skipped if it is the same meme, and gets an id of its own if its text differs."""
    first: dict[tuple[str, str], Meme] = {}
    ids: set[str] = set()
    marked = []
    for meme in rows:
        earlier = first.setdefault((meme.id, meme.text), meme)
        if earlier is not meme:
            other = "" if earlier.label == meme.label else ", but with the other label: which one is right?"
            meme = replace(meme, problem=meme.problem or f"the same id and text as {earlier.where}{other}")
        elif meme.id in ids:
            number = next(n for n in range(2, len(rows) + 2) if f"{meme.id}#{n}" not in ids)
            meme = replace(meme, id=f"{meme.id}#{number}")
        ids.add(meme.id)
        marked.append(meme)
    return marked
