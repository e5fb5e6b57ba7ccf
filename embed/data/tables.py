"""Find the tables of a data folder and read their rows, whatever the format, under any known column names.

`embed.data.dataset` interprets labels and splits, `embed.data.layouts` what is particular to published sets.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from embed.base.errors import DatasetError, RowError
from embed.data.columns import Columns
from embed.data.csv_rows import Numbered, csv_rows
from embed.data.json_rows import json_rows

# Formats, in the order in which one of several files of the same name is preferred.
SUFFIXES = (
    ".jsonl",
    ".csv",
    ".tsv",
    ".parquet",
    ".xlsx",
    ".xls",
    ".json",
    ".jsonl.gz",
    ".csv.gz",
    ".tsv.gz",
    ".json.gz",
)
# Folders are searched for tables this deep: `labels/info.csv`, `en/hate/train.jsonl`.
_DEPTH = 2
# Columns of what `predict-folder` writes.
_PREDICTIONS = {"probability", "threshold", "model_version"}

Row = tuple[str, dict[str, Any]]
"""(file and row, {"image" | "text" | "label" | "split" | "id" | "group": value} of the existing columns)."""
Reader = Callable[[Path, Columns, Callable[[str], None]], Iterator[Numbered]]


def format_of(table: Path) -> str:
    """The suffix in SUFFIXES that a file's name ends with, or ""."""
    return next((suffix for suffix in SUFFIXES if table.name.lower().endswith(suffix)), "")


def stem_of(table: Path) -> str:
    """The name without its suffix, also without `.csv.gz`."""
    return table.name[: len(table.name) - len(format_of(table))] if format_of(table) else table.stem


def check_exists(data: Path) -> None:
    """Raise DatasetError for a missing folder or table."""
    if not os.path.exists(data):  # False also for a name that is too long
        remote = "; a table is read from this machine, its pictures from IMAGES=<URL>" if ":/" in str(data) else ""
        raise DatasetError(f"{data}: no such folder; DATA=<folder> takes a folder of pictures and tables{remote}")


def find_tables(data: Path) -> list[Path]:
    """The tables of a data folder, or `data` itself if it is a file.

    They lie in `Split Dataset`, beside the pictures, or in one folder below. Raises DatasetError for a missing folder,
    for tables in several folders, and where there is none.
    """
    check_exists(data)
    if data.is_file():
        return [data]
    if tables := _tables_in(data / "Split Dataset"):
        return tables
    for depth in range(_DEPTH + 1):
        found = {folder: tables for folder in _folders(data, depth) if (tables := _tables_in(folder))}
        if len(found) > 1:
            names = ", ".join(sorted(str(folder.relative_to(data)) for folder in found)[:10])
            raise DatasetError(f"{data}: tables lie in {len(found)} folders; give one of them as DATA: {names}")
        if found:
            return next(iter(found.values()))
    there = sorted(path.name for path in data.iterdir() if not path.name.startswith("."))
    raise DatasetError(
        f"{data}: no table, and no folder per label (such as offensive and non-offensive); put a CSV with the columns "
        f"image_name, sentence, label there ({', '.join(SUFFIXES)} are read). It holds: {', '.join(there[:8]) or 'nothing'}"
    )


def _folders(data: Path, depth: int) -> list[Path]:
    if depth == 0:
        return [data]
    above = _folders(data, depth - 1)
    return [
        Path(entry.path)
        for folder in above
        for entry in os.scandir(folder)
        if entry.is_dir(follow_symlinks=False) and entry.name[0] not in "._"
    ]


def _tables_in(folder: Path) -> list[Path]:
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    # is_file: opening a named pipe would block; `~$` is Excel's mark of an open workbook
    found = [path for path in names if format_of(path) and not path.name.startswith((".", "~$")) and path.is_file()]
    return sorted(found, key=lambda path: (stem_of(path), SUFFIXES.index(format_of(path))))


def read_table(
    table: Path, columns: Columns | None = None, note: Callable[[str], None] = lambda text: None
) -> Iterator[Row | RowError]:
    """Every row of a table, or its error; columns: which of them are read, the known ones by default.

    note: called with what the user should know about the file. Raises DatasetError for an unreadable table or one
    without a column of pictures.
    """
    try:
        for number, found in _reader(table)(table, columns or Columns(), note):
            where = f"{table.name}, row {number}"
            yield RowError(where, found) if isinstance(found, str) else (where, found)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except ValueError as error:
        raise DatasetError(f"{table}: {error}") from error
    except (EOFError, OSError) as error:
        raise DatasetError(f"{table}: cannot be read ({error})") from error


def unusable(table: Path, columns: Columns) -> str:
    """Why a table is no table of memes, from its first row; "" if it is one."""
    try:
        next(read_table(table, columns), None)
    except DatasetError as error:
        return str(error).removeprefix(f"{table}: ")
    return ""


def is_predictions(columns: Columns) -> bool:
    """Whether a table, whose first row has been read, is what `predict-folder` writes."""
    return columns.unused.keys() >= _PREDICTIONS


def _reader(table: Path) -> Reader:
    kind = format_of(table).removesuffix(".gz")
    if kind == ".parquet":
        from embed.data.parquet_rows import parquet_rows  # pyarrow, which the server's image lacks

        return parquet_rows
    if kind in (".xlsx", ".xls"):
        from embed.data.excel_rows import excel_rows  # python-calamine, likewise

        return excel_rows
    return json_rows if kind in (".jsonl", ".json") or (not kind and _is_json(table)) else csv_rows


def _is_json(table: Path) -> bool:
    """Whether a file of another suffix, such as .txt, holds JSON."""
    with table.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{")
