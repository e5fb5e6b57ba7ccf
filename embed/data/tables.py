"""Read the rows of meme tables (CSV, JSON lines, Parquet) under any of the known column names.

`embed.data.dataset` interprets labels and splits.
"""

import csv
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from embed.base.errors import DatasetError, RowError

# Known column names of each field; the first is MultiOFF's.
_COLUMNS = {
    "image": ("image_name", "image", "img", "image_path", "filename", "file_name", "file"),
    "text": ("sentence", "text", "caption"),
    "label": ("label", "class"),
    "split": ("split",),
    "id": ("id",),
    # Not `target`: in machine learning that is usually the label. Not `pc` of the fine-grained Hateful Memes: it has
    # one value per annotator, `gold_pc` the majority's.
    "group": ("group", "subgroup", "target_group", "identity", "protected_category", "gold_pc"),
}
# Columns that a labelled table must have.
_LABELLED = ("image", "text", "label")

Row = tuple[str, dict[str, Any]]
"""(file and row, {"image" | "text" | "label" | "split" | "id" | "group": value} of the existing columns)."""


def find_tables(data: Path) -> list[Path]:
    """The tables of a data folder, or `data` itself if it is a file. Raises DatasetError if there is none."""
    if not data.exists():
        remote = "; a table is read from this machine, its pictures from IMAGES=<URL>" if ":/" in str(data) else ""
        raise DatasetError(
            f"{data}: no such folder; DATA=<folder> takes a folder with images and a CSV, JSON lines or Parquet{remote}"
        )
    if data.is_file():
        return [data]
    for folder, suffix in ((data / "Split Dataset", ".csv"), (data, ".jsonl"), (data, ".csv"), (data, ".parquet")):
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        # is_file: opening a named pipe would block
        found = [p for p in names if p.suffix.lower() == suffix and not p.name.startswith(".") and p.is_file()]
        if found:
            return found
    raise DatasetError(
        f"{data}: no table; put a CSV with the columns image_name, sentence, label there (or .jsonl, .parquet)"
    )


def read_table(table: Path, required: tuple[str, ...] = _LABELLED) -> Iterator[Row | RowError]:
    """Every row of a table, or its error; required: fields that need a column.

    Raises DatasetError for an unreadable table or a missing column.
    """
    reader = {".jsonl": _json_lines, ".parquet": _parquet_rows}.get(table.suffix.lower(), _csv_rows)
    try:
        yield from reader(table, required)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{table}: not a CSV file ({error})") from error


def _csv_rows(table: Path, required: tuple[str, ...]) -> Iterator[Row | RowError]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        try:
            columns = {ours: header.index(theirs) for ours, theirs in _match_columns(tuple(header), required).items()}
        except ValueError as error:
            raise DatasetError(f"{table}: {error}") from error
        # as in a spreadsheet: the header is row 1, and empty rows count
        for number, row in enumerate(reader, start=2):
            where = f"{table.name}, row {number}"
            if len(row) > len(header):
                yield RowError(where, "more fields than the header has; quote a text that holds a comma")
            elif row and len(row) < len(header):
                yield RowError(where, "fewer fields than the header has, or a quote that is not closed")
            elif row:
                yield where, {ours: row[place] for ours, place in columns.items()}


def _json_lines(table: Path, required: tuple[str, ...]) -> Iterator[Row | RowError]:
    with table.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_row(f"{table.name}, row {number}", line, required)


def _json_row(where: str, line: str, required: tuple[str, ...]) -> Row | RowError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError(where, f"not JSON ({error})")
    if not isinstance(row, dict):
        return RowError(where, "not a JSON object")
    try:
        columns = _match_columns(tuple(row), _but_label(required))
    except ValueError as error:
        return RowError(where, str(error))
    return where, {"label": None} | {ours: row[theirs] for ours, theirs in columns.items()}


def _parquet_rows(table: Path, required: tuple[str, ...]) -> Iterator[Row | RowError]:
    from embed.data.parquet_rows import parquet_rows  # pyarrow, which the server's image lacks

    try:
        for number, fields in parquet_rows(table, lambda header: _match_columns(header, _but_label(required))):
            yield f"{table.name}, row {number}", {"label": None} | fields
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DatasetError(f"{table}: {error}") from error


def _but_label(required: tuple[str, ...]) -> tuple[str, ...]:
    """Published test sets have no labels."""
    return tuple(name for name in required if name != "label")


# called for each JSON line, usually with the same header
@lru_cache(maxsize=64)
def _match_columns(header: tuple[str, ...], required: tuple[str, ...]) -> dict[str, str]:
    """{field: column name}. Raises ValueError for a missing or duplicate column."""
    lowered = [name.strip().lower() for name in header]
    columns: dict[str, str] = {}
    for ours, names in _COLUMNS.items():
        known = next((name for name in names if name in lowered), None)
        if known and lowered.count(known) > 1:
            raise ValueError(f"two columns are called {known}; rename or delete one")
        if known:
            columns[ours] = header[lowered.index(known)]
    missing = [ours for ours in required if ours not in columns]
    if missing:
        wanted = "; ".join(f"{ours}: one of {', '.join(_COLUMNS[ours])}" for ours in missing)
        hint = " (separate the columns with commas)" if len(header) == 1 and set(header[0]) & set(";\t|") else ""
        raise ValueError(f"no column for {wanted}. It has: {', '.join(header) or 'nothing'}{hint}")
    return columns
