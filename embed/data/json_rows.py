"""Read JSON tables: one object a line, an array of objects, or an object of objects by id."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from embed.data.columns import Columns, fields_of
from embed.data.csv_rows import Numbered, open_text


def json_rows(table: Path, columns: Columns, note: Callable[[str], None]) -> Iterator[Numbered]:
    """Each row or its error, numbered by line or by place, from 1. A missing label is None.

    Raises ValueError for a file of one JSON value that holds no rows.
    """
    for number, item in _items(table):
        if isinstance(item, ValueError | RecursionError):
            yield number, f"not JSON ({item})"
        elif not isinstance(item, dict):
            yield number, "not a JSON object"
        else:
            try:
                found: dict[str, Any] | str = fields_of(item, columns.require(tuple(item), optional=True))
            except ValueError as error:
                found = str(error)
            yield number, found


def _items(table: Path) -> Iterator[tuple[int, Any]]:
    """(number, value, or the error of its line) of a table's rows."""
    with open_text(table) as file:
        first = next((line for line in file if line.strip()), "")
        rest = next((line for line in file if line.strip()), "")
        alone = not rest or not _is_object(first)
        if alone and not table.name.lower().endswith((".jsonl", ".jsonl.gz")):
            file.seek(0)
            yield from enumerate(_members(file.read()), start=1)
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield number, error


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _members(text: str) -> list[Any]:
    """The rows of one JSON value: an array, an object {id: row}, or an object with one array. Raises ValueError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if value and all(isinstance(row, dict) for row in value.values()):
            return [{"id": key} | row for key, row in value.items()]
        arrays = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
        if len(arrays) == 1:
            return arrays[0]
        if not arrays and any(isinstance(row, str) for row in value.values()):
            return [value]
    raise ValueError("holds no rows; expected an array of objects, an object {id: row}, or one object a line")
