"""Rows of the tables that list memes: CSV or JSON lines, whatever their columns are called.

It knows files and columns; what a label or a split means is `embed.dataset`'s.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The header names in use for each field; the first is MultiOFF's.
_COLUMNS = {
    "image": ("image_name", "image", "img", "image_path", "filename", "file_name", "file"),
    "text": ("sentence", "text", "caption"),
    "label": ("label", "class"),
    "split": ("split",),
    "id": ("id",),
}
_REQUIRED = ("image", "text", "label")

Row = tuple[str, dict[str, Any]]
"""File and row, and {image, text, label, split, id: value} of the columns that there are."""


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


def find_tables(data: Path) -> list[Path]:
    """The tables of a data folder, or the one that `data` is. Raises DatasetError where there is none."""
    if not data.exists():
        raise DatasetError(f"{data}: no such folder; DATA=<folder> takes a folder with images and a CSV or JSON lines")
    if data.is_file():
        return [data]
    for folder, suffix in ((data / "Split Dataset", ".csv"), (data, ".jsonl"), (data, ".csv")):
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        found = [path for path in names if path.suffix.lower() == suffix and not path.name.startswith(".")]
        if found:
            return found
    raise DatasetError(f"{data}: no table; put a CSV with the columns image_name, sentence, label (or .jsonl) there")


def read_table(table: Path) -> Iterator[Row]:
    """Every row of a table. Raises DatasetError for what is no table, lacks a column or has a broken row."""
    reader = _json_lines if table.suffix.lower() == ".jsonl" else _csv_rows
    try:
        yield from reader(table)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{table}: not a CSV file ({error})") from error


def _csv_rows(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns = _match_columns(str(table), header)
        # as a spreadsheet counts: the header is row 1, and an empty row is one too
        for number, row in enumerate(reader, start=2):
            where = f"{table.name}, row {number}"
            if len(row) > len(header):
                raise DatasetError(f"{where}: more fields than the header has; quote a text that holds a comma")
            if row and len(row) < len(header):
                raise DatasetError(f"{where}: fewer fields than the header has, or a quote that is not closed")
            if row:
                yield where, {ours: row[header.index(theirs)] for ours, theirs in columns.items()}


def _json_lines(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            where = f"{table.name}, row {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{where}: not a JSON object")
            # published test sets come without labels
            columns = _match_columns(where, list({**row, "label": None}))
            yield where, {ours: row.get(theirs) for ours, theirs in columns.items()}


def _match_columns(where: str, header: list[str]) -> dict[str, str]:
    lowered = [name.strip().lower() for name in header]
    columns: dict[str, str] = {}
    for ours, names in _COLUMNS.items():
        known = next((name for name in names if name in lowered), None)
        if known and lowered.count(known) > 1:
            raise DatasetError(f"{where}: two columns are called {known}; rename or delete one")
        if known:
            columns[ours] = header[lowered.index(known)]
    missing = [ours for ours in _REQUIRED if ours not in columns]
    if missing:
        wanted = "; ".join(f"{ours}: one of {', '.join(_COLUMNS[ours])}" for ours in missing)
        hint = " (separate the columns with commas)" if len(header) == 1 and set(header[0]) & set(";\t|") else ""
        raise DatasetError(f"{where}: no column for {wanted}. It has: {', '.join(header) or 'nothing'}{hint}")
    return columns
