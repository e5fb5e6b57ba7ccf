"""Compare a data folder, or the published zip file, with the known counts and hashes of a data set.

It reads tables and hashes pictures without decoding them. `python -m embed data` prints the result. Three SHA-256: of a
table's bytes; of its rows as this project reads them, independent of line ends, quotes and byte-order mark; of the
pictures that a table names, as sorted lines of name and hash.
"""

import hashlib
import json
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cache import content_key, file_digest, text_key
from embed.base.errors import DatasetError, RowError
from embed.base.text import clean_text
from embed.data.labels import UNLABELLED, parse_label
from embed.data.tables import read_table
from embed.pictures.keys import hash_pictures
from embed.pictures.locate import PictureFinder
from embed.published.registry import Published, PublishedSplit

SAME, SAME_ROWS, DIFFERS, ABSENT = "as published", "same rows, other bytes", "differs", "absent"
UNKNOWN, NOT_NEEDED = "not known here", "not needed"
# Names of missing pictures in a line.
_NAMES = 3
# Hex digits shown where two hashes are compared; elsewhere all are.
_DIGITS = 16
# Bytes per step of the progress bar.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Check:
    """One line of the comparison. verdict: one of the constants above; here: what was found, and what was expected."""

    split: str
    what: str
    verdict: str
    here: str

    @property
    def agrees(self) -> bool:
        """Whether it does not contradict the known facts."""
        return self.verdict not in (DIFFERS, ABSENT)


@dataclass(frozen=True)
class _Table:
    """A table. rows: (picture name, text, label); row_errors: messages of unreadable rows."""

    rows: list[tuple[str, str, int | str]]
    row_errors: list[str]
    table_hash: str


def recognise(path: Path, known: Sequence[Published]) -> Published:
    """The data set whose tables are in the folder, or that is published as a zip file.

    Raises DatasetError for a missing path and for any other folder or file.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such folder; `python -m embed data` without a folder lists the sources")
    for published in known:
        is_archive = bool(published.archives) and path.is_file() and zipfile.is_zipfile(path)
        if is_archive or any((path / split.table).is_file() for split in published.splits):
            return published
    wanted = "; ".join(f"{published.name}: {', '.join(published.layout)}" for published in known)
    raise DatasetError(f"{path}: not a published data set or its zip file. Looked for {wanted}")


def check(path: Path, published: Published) -> list[Check]:
    """Compare `path` with `published`, see `recognise`. Raises DatasetError for an unreadable table, and OSError."""
    return [_check_archive(path, published)] if path.is_file() else _check_folder(path, published)


def _check_archive(path: Path, published: Published) -> Check:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(total=size, desc="hashing", unit="B", unit_scale=True, delay=1) as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    found = digest.hexdigest()
    if found in published.archives:
        return Check("all", "zip file", SAME, f"sha256 {found}")
    advice = f"none of the {len(published.archives)} published; if it was repacked, unpack it and check the folder"
    return Check("all", "zip file", DIFFERS, f"sha256 {found}: {advice}")


def _check_folder(root: Path, published: Published) -> list[Check]:
    tables = {split: _read_table(root / split.table) for split in published.splits if (root / split.table).is_file()}
    finder = PictureFinder(root)
    paths = {name: finder.find(name) for table in tables.values() for name, _, _ in table.rows}
    hashed = hash_pictures(root, ["" if problem else image for image, problem in paths.values()])
    problems = {name: problem or unreadable for (name, (_, problem)), unreadable in zip(paths.items(), hashed.problems)}
    keys = {name: key for name, key in zip(paths, hashed.keys) if not problems[name]}
    checks = []
    for split in published.splits:
        if split in tables:
            checks += [*_check_rows(tables[split], split), *_check_pictures(tables[split], split, keys, problems)]
        else:
            there = f"no {split.table} in this folder; published: {split.rows} rows"
            checks.append(Check(split.name, "table", ABSENT if split.needed else NOT_NEEDED, there))
    return checks


def _read_table(path: Path) -> _Table:
    rows: list[tuple[str, str, int | str]] = []
    row_errors = []
    for row in read_table(path):
        if isinstance(row, RowError):
            row_errors.append(f"{row.where}: {row.reason}")
        else:
            fields = row[1]
            rows.append((clean_text(str(fields["image"])), _text(fields.get("text")), _label(fields.get("label"))))
    return _Table(rows, row_errors, file_digest(path))


def _text(written: Any) -> str:
    # line ends inside a text change with those of the file
    return clean_text(str(written or "")).replace("\r\n", "\n").replace("\r", "\n")


def _label(written: Any) -> int | str:
    """The parsed label; an unknown one as written."""
    try:
        return UNLABELLED if written is None else parse_label(written)
    except ValueError:
        return str(written)


def _check_rows(table: _Table, split: PublishedSplit) -> list[Check]:
    rows = len(table.rows) + len(table.row_errors)
    wrong = f" ({table.row_errors[0]})" if table.row_errors else ""
    offensive = sum(label == 1 for _, _, label in table.rows)
    whole = _compared_hash(split.name, "table", table.table_hash, split.table_hash)
    if whole.verdict == DIFFERS and _rows_hash(table) == split.rows_hash:
        whole = Check(split.name, "table", SAME_ROWS, "line ends, quotes or a byte-order mark")
    return [
        _compared(split.name, "rows", f"{rows}{wrong}", str(split.rows)),
        _compared(split.name, "offensive", str(offensive), None if split.offensive is None else str(split.offensive)),
        whole,
    ]


def _check_pictures(
    table: _Table, split: PublishedSplit, keys: dict[str, str], problems: dict[str, str]
) -> list[Check]:
    names = {name for name, _, _ in table.rows}
    usable = sorted(names & keys.keys())
    missing = names - keys.keys()
    here = f"{len(usable)} here, {_listed(missing)}"
    if split.missing is None:
        pictures = Check(split.name, "pictures", UNKNOWN, here)
    elif missing == set(split.missing):
        pictures = Check(split.name, "pictures", SAME, here)
    else:
        unexpected = missing - set(split.missing)
        reason = f" ({problems[min(unexpected)]})" if unexpected else ""
        pictures = Check(split.name, "pictures", DIFFERS, f"{here}{reason}; published: {_listed(split.missing)}")
    digest = text_key("\n".join(f"{name} {keys[name]}" for name in usable))
    return [pictures, _compared_hash(split.name, "their bytes", digest, split.pictures_hash)]


def _rows_hash(table: _Table) -> str:
    return content_key("\n".join(json.dumps(row) for row in table.rows).encode())


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)} missing: {', '.join(map(repr, sorted(names)[:_NAMES]))}{more}" if names else "none missing"


def _compared(split: str, what: str, here: str, published: str | None) -> Check:
    if published is None:
        return Check(split, what, UNKNOWN, here)
    if here == published:
        return Check(split, what, SAME, here)
    return Check(split, what, DIFFERS, f"{here}; published: {published}")


def _compared_hash(split: str, what: str, here: str, published: str | None) -> Check:
    if published in (None, here):
        return Check(split, what, SAME if published else UNKNOWN, f"sha256 {here}")
    return Check(split, what, DIFFERS, f"sha256 {here[:_DIGITS]}...; published: {published[:_DIGITS]}...")
