"""Read CSV tables as spreadsheets write them: any delimiter, blank lines, `sep=`, UTF-8, UTF-16 or cp1252."""

import codecs
import csv
import gzip
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from embed.base.text import MAX_TEXT
from embed.data.columns import Columns

_DELIMITERS = (",", ";", "\t", "|")
# Of the letters of a Western text in cp1252 few are outside ASCII; in a Cyrillic or Greek code page nearly all are.
_MOST_ACCENTS = 0.2
# Bytes before and after the first wrong one that are shown.
_AROUND = 15
_NOT_CLOSED = "probably a quote that is not closed"

Numbered = tuple[int, dict[str, Any] | str]
"""(row number, {field: value of the column}, or why the row cannot be read)."""


def csv_rows(table: Path, columns: Columns, note: Callable[[str], None]) -> Iterator[Numbered]:
    """Each row or its error, numbered as in a spreadsheet: the first line of the file is row 1.

    note: called with what the user should know about the file. Raises ValueError for a file that is not such a table.
    """
    csv.field_size_limit(4 * MAX_TEXT)  # one setting for the process; `as_text` names the row of a long text
    with open_text(table, note) as file:
        first, skipped = _first_line(file)
        if first.lower().startswith("sep="):
            delimiter = first[4:].strip("\r\n") or ","
            first, more = _first_line(file)
            skipped += 1 + more
        else:
            delimiter = _delimiter(first, columns)
        if delimiter != ",":
            note(f"{table.name}: columns are separated by {'tabs' if delimiter == chr(9) else delimiter}")
        header = tuple(next(csv.reader([first], delimiter=delimiter), []))
        yield from _rows(_Counted(file, delimiter, skipped + 1), header, columns.require(header))


class _Counted:
    """A csv reader that says on which row each record begins, and whether the file ended inside a quote."""

    def __init__(self, file: TextIO, delimiter: str, before: int) -> None:
        self._reader = csv.reader(self._lines(file), delimiter=delimiter)
        self._before, self._quotes = before, 0

    def _lines(self, file: TextIO) -> Iterator[str]:
        for line in file:
            self._quotes += line.count('"')
            yield line

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        while True:
            number, quotes, start = self._before + self._reader.line_num + 1, self._quotes, self._reader.line_num
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                limit = "field limit" in str(error)
                yield (
                    number,
                    f"a field of more than {csv.field_size_limit():,} characters; {_NOT_CLOSED}"
                    if limit
                    else str(error),
                )
                return
            lines = self._reader.line_num - start
            # a record of several lines with an odd number of quotes ends with the file only
            unclosed = lines > 1 and (self._quotes - quotes) % 2
            yield number, f"{_NOT_CLOSED}: it takes the {lines - 1} lines below it" if unclosed else row


def _rows(records: _Counted, header: tuple[str, ...], columns: dict[str, str]) -> Iterator[Numbered]:
    width = len(header)
    last = {name: place for place, name in enumerate(header)}
    places = [(ours, last.get(theirs)) for ours, theirs in columns.items()]
    for number, row in records:
        if isinstance(row, str):
            yield number, row
        elif not any(map(str.strip, row)):
            continue
        elif len(row) > width and any(map(str.strip, row[width:])):
            yield number, "more fields than the header has; quote a text that holds a comma"
        elif len(row) < width:
            yield number, "fewer fields than the header has, or a quote that is not closed"
        else:
            yield number, {ours: None if place is None else row[place] for ours, place in places}


def _first_line(file: TextIO) -> tuple[str, int]:
    """The first line that is not blank, and the number of lines before it."""
    for number, line in enumerate(file):
        if line.strip(" ,;|\t\r\n"):
            return line, number
    return "", 0


def _delimiter(header: str, columns: Columns) -> str:
    """The delimiter that yields a column of pictures, else the most frequent one."""
    for delimiter in _DELIMITERS:
        cells = tuple(next(csv.reader([header], delimiter=delimiter), []))
        # by columns of its own: what another delimiter yields is no column of the table
        if len(cells) > 1 and Columns(columns.given).match(cells, optional=True).keys() & {"image", "id"}:
            return delimiter
    return max(_DELIMITERS, key=header.count)


def open_text(table: Path, note: Callable[[str], None] = lambda text: None) -> TextIO:
    """A table's text, unpacked if its name ends in .gz. Raises ValueError for an encoding that is not clear."""
    opener = gzip.open if table.suffix.lower() == ".gz" else open
    with opener(table, "rb") as file:
        encoding = _encoding(table.name, file, note)
    return cast(TextIO, opener(table, "rt", encoding=encoding, newline=""))


def _encoding(name: str, file: Iterable[bytes], note: Callable[[str], None]) -> str:
    """UTF-8, UTF-16 by its mark, or cp1252 for a Western text that has no UTF-8 in it. Raises ValueError."""
    first, word, whole, high, letters = 0, "", 0, 0, 0
    for number, line in enumerate(file, start=1):
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            whole += 1
        except UnicodeDecodeError as error:
            if not first:
                near = line[max(0, error.start - _AROUND) : error.start + _AROUND]
                first, word = number, near.decode("cp1252", "replace").strip()
            high += sum(byte > 127 for byte in line)
            letters += sum(byte > 127 or chr(byte).isalpha() for byte in line)
    if not first:
        return "utf-8-sig"
    if not whole and high <= _MOST_ACCENTS * letters:
        note(f"{name}: not UTF-8; read as cp1252 (Windows): “{word}” in row {first}")
        return "cp1252"
    raise ValueError(f"not UTF-8 in row {first}, near “{word}”; save the file as UTF-8")
