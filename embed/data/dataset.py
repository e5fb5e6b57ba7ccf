"""Read a folder of memes in one of the published layouts; map every published label spelling to 1 or 0.

It opens the tables, not the pictures.

    MultiOFF        Split Dataset/{Training,Validation,Testing}_*.csv and Labelled Images/
    Hateful Memes   train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/
    one table       any .csv or .parquet in the folder (or the file itself), with named columns, perhaps a `split`

Pictures are in the folder of the tables, or in IMAGES: another folder or a URL.
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
# The fine-grained Hateful Memes' value for "no group is attacked".
_NO_GROUP = "pc_empty"


@dataclass(frozen=True)
class Meme:
    """One row of a data set.

    image: path inside the pictures' root, as POSIX; text: cleaned, may be empty; label: 1 offensive, 0 not,
    -1 unlabelled; split: "train" | "validation" | "test"; where: file and row; problem: "" or why it is skipped;
    group: target group of the meme as the data name it, or "".
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
    """The pictures' root, and every row of the folder's tables (or of the one table), in file order.

    images: the folder or URL of the pictures, "" for the folder of the tables. Raises DatasetError for a missing
    folder, table or column, an unknown label or split, and as `open_pictures`. A row with a missing picture or a
    repeated id is kept, with its `problem`.
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
    """The pictures' root, and an iterator over the rows in file order, with ids as written, and their errors.

    Raises DatasetError, also during iteration, for a missing folder, table or column, and as `open_pictures`.
    """
    # in the order of SPLITS, not alphabetical: of repeated memes, the first row is kept
    tables = sorted(find_tables(data), key=lambda table: SPLITS.index(_split_in(table.stem) or "train"))
    root, finder = open_pictures({"data": str(data), "images": images})
    return root, (row for table in tables for row in _scan_table(table, finder, alone=len(tables) == 1))


def parse_label(value: Any) -> int:
    """1 for offensive, 0 for not offensive, from any published spelling. Raises ValueError for anything else."""
    written = str(value).strip().lower()
    # Hyphens and the like are dropped from words only: "-1" is not a spelling of 1.
    spelling = written if any(c.isdigit() for c in written) else re.sub(r"[^a-z]", "", written)
    if spelling not in _LABELS:
        raise ValueError(f"unknown label {value!r}; write offensive or non-offensive (or 1 or 0)")
    return _LABELS[spelling]


def _split_in(name: str) -> str | None:
    """The split named in a file name or a cell: `Training_meme_dataset`, `dev_seen`, `memes-test`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _scan_table(table: Path, finder: Finder, alone: bool) -> Iterator[Meme | RowError]:
    # A single table is the train split by default; of several, each must name its split.
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
        # the default id does not depend on how a table spells the folder of its pictures
        default_id = image if name.startswith("/") or "://" in name else name
        id = default_id if written in (None, "") else hide_secrets(clean_text(str(written)))
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
    """A repeated id: the row is skipped if its text is the same, else it gets a new id, `<id>#2` and so on."""
    first: dict[tuple[str, str], Meme] = {}
    ids: set[str] = set()
    # next number to try for each id: starting from 2 every time would be quadratic
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
