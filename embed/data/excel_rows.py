"""Read the first sheet of an Excel workbook; used by `embed.data.tables`, never by the server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from python_calamine import CalamineError, CalamineWorkbook

from embed.data.columns import Columns, fields_of
from embed.data.csv_rows import Numbered


def excel_rows(table: Path, columns: Columns, note: Callable[[str], None]) -> Iterator[Numbered]:
    """Each row of the first sheet, numbered as Excel does. Raises ValueError for a file that is no workbook."""
    try:
        with CalamineWorkbook.from_path(str(table)) as book:
            names = book.sheet_names
            rows = book.get_sheet_by_index(0).to_python(skip_empty_area=False)
    except (CalamineError, OSError) as error:
        raise ValueError(f"not an Excel workbook that can be read ({error})") from error
    if len(names) > 1:
        note(f"{table.name}: only its first sheet is read, {names[0]}")
    filled = ((number, row) for number, row in enumerate(rows, start=1) if any(cell not in ("", None) for cell in row))
    header = tuple(_text(cell) for cell in next(filled, (0, []))[1])
    found = columns.require(header)
    for number, row in filled:
        fields = fields_of(dict(zip(header, row)), found)
        if isinstance(text := fields.get("text"), int | float) and not isinstance(text, bool):
            fields["text"] = _text(text)  # Excel itself makes a number of a text that looks like one
        yield number, fields


def _text(cell: Any) -> str:
    return f"{int(cell)}" if isinstance(cell, float) and cell.is_integer() else f"{cell}"
