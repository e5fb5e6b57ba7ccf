"""Read a data set into memes, whatever its layout: labels, splits, texts, and where each picture lies.

It opens the tables, not the pictures. `embed.data.layouts` has one file per published layout. Pictures are in the
folder of the tables, or in IMAGES: another folder or a URL.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import TextColumn, group_name
from embed.base.errors import DatasetError, RowError
from embed.base.text import clean_text, hide_secrets
from embed.base.text_rows import first_rows
from embed.data.choices import Choices
from embed.data.layouts.reading import Reading, split_in
from embed.data.layouts.registry import LAYOUTS, PLAIN
from embed.data.memes import Meme, Memes
from embed.data.tables import Row, check_exists
from embed.data.understood import Understood
from embed.data.values import as_name, as_text, is_missing
from embed.pictures.locate import Finder, open_pictures

# The fine-grained Hateful Memes' value for "no group is attacked".
_NO_GROUP = "pc_empty"


def read_dataset(
    data: Path, choices: Choices | None = None, understood: Understood | None = None
) -> tuple[Path, Memes]:
    """The pictures' root, and every row of the data set, train first; understood: filled with what was read.

    Raises DatasetError for a missing folder, table or column, an unknown label or split, for rows that are all
    unlabelled, and as `open_pictures`. A row with a missing picture or a repeated id is kept, with its `problem`.
    """
    understood = Understood() if understood is None else understood
    root, rows = scan_dataset(data, choices or Choices(), understood)
    memes = Memes.of(map(_meme, rows))
    check_usable(data, understood)
    return root, _mark_repeats(memes)


def _meme(row: Meme | RowError) -> Meme:
    if isinstance(row, RowError):
        raise DatasetError(f"{row.where}: {row.reason}")
    return row


def check_usable(data: Path, understood: Understood) -> None:
    """Raise DatasetError where there are no rows, or none has a label."""
    if not understood.splits:
        raise DatasetError(f"{data}: its tables hold no rows")
    for ours, column in understood.columns.given.items():
        if ours not in understood.columns.found and ours != "label":
            has = ", ".join([*understood.columns.found.values(), *understood.columns.unused])
            raise DatasetError(f"{data}: no column {column!r} for {ours}; it has: {has}")
    given = understood.labels.positive
    if given and not any(label == 1 for _, label in understood.labels.words):
        words = ", ".join(dict.fromkeys(word for word, _ in understood.labels.words if word)) or "none"
        raise DatasetError(f"{data}: no label is one of POSITIVE={','.join(sorted(given))}; the labels are: {words}")
    if understood.all_unlabelled:
        raise DatasetError(f"{data}: {understood.no_label()}")


def scan_dataset(data: Path, choices: Choices, understood: Understood) -> tuple[Path, Iterator[Meme | RowError]]:
    """The pictures' root, and an iterator over the rows, with ids as written, and their errors.

    understood: filled by the iteration. Raises DatasetError, also during iteration, for a missing folder, table or
    column, and as `open_pictures`.
    """
    check_exists(data)
    root, finder = open_pictures({"data": str(data), **asdict(choices)})
    layout = next((layout for layout in LAYOUTS if layout.recognise(data)), PLAIN) if data.is_dir() else PLAIN
    understood.layout, understood.found_otherwise = layout.name, finder.other
    understood.columns.given = choices.given_columns
    understood.labels.positive = frozenset(choices.positive_words)
    return root, _memes(layout.rows(Reading(data, choices, understood)), finder, understood)


def _memes(rows: Iterator[Row | RowError], finder: Finder, understood: Understood) -> Iterator[Meme | RowError]:
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        try:
            yield _read_row(row, finder, understood)
        except ValueError:
            yield from _errors(row, understood)


def _read_row(row: Row, finder: Finder, understood: Understood) -> Meme:
    """The meme of a row. Raises ValueError for a field that cannot be used."""
    where, fields = row
    name, written_id, text, split, (label, agreement) = (read(fields, understood) for read in _FIELDS)
    image, problem = finder.find(name, fields["folders"])
    # the default id does not depend on how a table spells the folder of its pictures
    default_id = image if name.startswith("/") or "://" in name else name
    understood.take(split, label, text, agreement)
    id = hide_secrets(written_id) or default_id
    return Meme(id, image, text, label, split, where, problem, _group(fields), agreement)


def _errors(row: Row, understood: Understood) -> Iterator[RowError]:
    """An error for each field of a row that cannot be used."""
    for read in _FIELDS:
        try:
            read(row[1], understood)
        except ValueError as error:
            yield RowError(row[0], str(error))


def _name(fields: dict[str, Any], _: Understood) -> str:
    name = hide_secrets(as_name(fields.get("image"), "picture's name") or as_name(fields.get("id"), "id"))
    if not name:
        raise ValueError("no image name; give the picture's file name or delete the row")
    return name


def _split(fields: dict[str, Any], _: Understood) -> str:
    written = fields.get("split")
    split = fields["default_split"] if is_missing(written) else split_in(f"{written}")
    if not split:
        raise ValueError(
            "which split? Name the file train, validation or test, or give it a column `split`"
            if is_missing(written)
            else f"unknown split {written!r}; write train, validation or test"
        )
    return split


_FIELDS: tuple[Callable[[dict[str, Any], Understood], Any], ...] = (
    _name,
    lambda fields, _: as_name(fields.get("id"), "id"),
    lambda fields, _: as_text(fields.get("text")),
    _split,
    lambda fields, understood: understood.labels.read(fields.get("label")),  # last, since it counts
)


def _group(fields: dict[str, Any]) -> str:
    written = fields.get("group")
    group = "" if is_missing(written) else clean_text(group_name(written))
    return "" if group == _NO_GROUP else group


def _mark_repeats(memes: Memes) -> Memes:
    """A repeated id: skipped if text and picture are the same, else the row gets a new id, `<id>#2` and so on."""
    earlier = first_rows(memes.ids)
    repeated = np.flatnonzero(earlier != np.arange(len(memes)))
    if not len(repeated):
        return memes
    # what a new id could be the same as, and the first row of each repeated id
    numbered = (row for row, name in enumerate(memes.ids) if "#" in name)
    first: dict[tuple[str, str, str], Meme] = {}
    ids: set[str] = set()
    # next number to try for each id: starting from 2 every time would be quadratic
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(2))
    new_ids, problems = dict[int, str](), dict[int, str]()
    for row in sorted({*repeated.tolist(), *earlier[repeated].tolist(), *numbered}):
        meme = memes[row]
        before = first.setdefault((meme.id, meme.text, meme.image), meme)
        if before is not meme:
            other = "" if before.label == meme.label else ", but with the other label: which one is right?"
            problems[row] = meme.problem or f"the same id and text as {before.where}{other}"
        elif meme.id in ids:
            number = next(n for n in numbers[meme.id] if f"{meme.id}#{n}" not in ids)
            new_ids[row] = f"{meme.id}#{number}"
        ids.add(new_ids.get(row, meme.id))
    return replace(memes, ids=_with(memes.ids, new_ids), problems=_with(memes.problems, problems))


def _with(texts: TextColumn, new: dict[int, str]) -> TextColumn:
    """The column with the texts of some rows replaced."""
    return TextColumn.of(new.get(row, text) for row, text in enumerate(texts)) if new else texts
