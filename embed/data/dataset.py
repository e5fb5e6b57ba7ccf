"""Read a folder of memes in one of the layouts people have; make every published label spelling 1 or 0.

It opens the tables, not the pictures, and knows nothing of CLIP or of vectors.

    MultiOFF        Split Dataset/{Training,Validation,Testing}_*.csv and Labelled Images/
    Hateful Memes   train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/
    one table       any .csv or .parquet in the folder (or the file itself), with named columns, perhaps a `split`

Pictures stand in the folder of the tables, or where IMAGES says: another folder, or a URL.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache import SPLITS, group_name
from embed.base.errors import DatasetError, RowError
from embed.base.text import clean_text, hide_secrets
from embed.data.tables import Row, find_tables, read_table
from embed.pictures.locate import Finder, open_pictures

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
UNLABELLED = -1
# What the fine-grained Hateful Memes write where no group is attacked.
_NO_GROUP = "pc_empty"


@dataclass(frozen=True)
class Meme:
    """One row of a data set.

    image: path inside the pictures' root, as POSIX; text: cleaned, may be empty; label: 1 offensive, 0 not,
    -1 unlabelled; split: "train" | "validation" | "test"; where: file and row; problem: "" or why it is skipped;
    group: whom the meme is about, as the data say it, or "".
    """

    id: str
    image: str
    text: str
    label: int
    split: str
    where: str
    problem: str = ""
    group: str = ""


def read_dataset(data: Path, images: str = "") -> tuple[Path, list[Meme]]:
    """Read every row that the folder (or the one table) names: the pictures' root, and the rows, in file order.

    images: the folder or URL that pictures are read from, "" for the folder of the tables. Raises DatasetError for no
    such folder, no table, a missing column, an unknown label or split, and what `open_pictures` refuses. A row that
    cannot be used on its own account (no such file, its id came before) is kept, with its `problem`.
    """
    root, rows = scan_dataset(data, images)
    memes = []
    for row in rows:
        if isinstance(row, RowError):
            raise DatasetError(f"{row.where}: {row.reason}")
        memes.append(row)
    if not memes:
        raise DatasetError(f"{data}: its tables hold no rows")
    return root, _mark_repeats(memes)


def scan_dataset(data: Path, images: str = "") -> tuple[Path, Iterator[Meme | RowError]]:
    """The pictures' root, and every row in file order with its id as written, or each thing that is wrong with it.

    Raises DatasetError, also while it is read, for no such folder, no table, a missing column, and what
    `open_pictures` refuses.
    """
    # train, validation, test, whatever the alphabet says: of a meme that is listed twice, the first row stays
    tables = sorted(find_tables(data), key=lambda table: SPLITS.index(_split_in(table.stem) or "train"))
    root, finder = open_pictures({"data": str(data), "images": images})
    return root, (row for table in tables for row in _scan_table(table, finder, alone=len(tables) == 1))


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


def _scan_table(table: Path, finder: Finder, alone: bool) -> Iterator[Meme | RowError]:
    # One table may be all there is to train on; among several, each has to say which it is.
    default = _split_in(table.stem) or ("train" if alone else None)
    for row in read_table(table):
        if isinstance(row, RowError):
            yield row
        else:
            yield from _read_row(row, default, finder)


def _read_row(row: Row, default_split: str | None, finder: Finder) -> Iterator[Meme | RowError]:
    where, fields = row
    parts: dict[str, Any] = {}
    for part, read in (("name", _name), ("split", lambda fields: _split(fields, default_split)), ("label", _label)):
        try:
            parts[part] = read(fields)
        except ValueError as error:
            yield RowError(where, str(error))
    if len(parts) == 3:
        name = parts["name"]
        image, problem = finder.find(name)
        written = fields.get("id")
        # one id, however a manifest spells the place that all its pictures are in
        unwritten = image if name.startswith("/") or "://" in name else name
        id = unwritten if written in (None, "") else hide_secrets(clean_text(str(written)))
        text = clean_text(str(fields["text"] or ""))
        yield Meme(id, image, text, parts["label"], parts["split"], where, problem, _group(fields))


def _name(fields: dict[str, Any]) -> str:
    name = hide_secrets(clean_text(str(fields["image"] or "")))
    if not name:
        raise ValueError("no image name; give the picture's file name or delete the row")
    return name


def _split(fields: dict[str, Any], default: str | None) -> str:
    written = fields.get("split")
    split = _split_in(str(written)) if written else default
    if split is None:
        raise ValueError(
            f"unknown split {written!r}; write train, validation or test"
            if written
            else "which split? Name the file train, validation or test, or give it a column `split`"
        )
    return split


def _label(fields: dict[str, Any]) -> int:
    return UNLABELLED if fields["label"] is None else parse_label(fields["label"])


def _group(fields: dict[str, Any]) -> str:
    group = clean_text(group_name(fields.get("group")))
    return "" if group == _NO_GROUP else group


def _mark_repeats(rows: list[Meme]) -> list[Meme]:
    """A second row of one id is skipped if it is the same meme, and gets an id of its own if its text differs."""
    first: dict[tuple[str, str], Meme] = {}
    ids: set[str] = set()
    # where to look for the next free number of an id: from 2 each time would be quadratic
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(2))
    marked = []
    for meme in rows:
        earlier = first.setdefault((meme.id, meme.text), meme)
        if earlier is not meme:
            other = "" if earlier.label == meme.label else ", but with the other label: which one is right?"
            meme = replace(meme, problem=meme.problem or f"the same id and text as {earlier.where}{other}")
        elif meme.id in ids:
            number = next(n for n in numbers[meme.id] if f"{meme.id}#{n}" not in ids)
            meme = replace(meme, id=f"{meme.id}#{number}")
        ids.add(meme.id)
        marked.append(meme)
    return marked
