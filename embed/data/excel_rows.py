"""Read the first sheet of an Excel workbook; used by `embed.data.tables`, never by the server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from python_calamine import CalamineError, CalamineWorkbook

from embed.base.errors import RowError
from embed.data.columns import Columns, getter
from embed.data.csv_rows import Numbered


def excel_rows(table: Path, columns: Columns, note: Callable[[str], None]) -> Iterator[Numbered | RowError]:
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
    if columns.missing(header):
        raise ValueError(columns.missing(header))
    get = {ours: getter(theirs) for ours, theirs in columns.match(header).items()}
    for number, row in filled:
        cells = dict(zip(header, row))
        yield number, {ours: _value(ours, read(cells)) for ours, read in get.items()}


def _value(field: str, cell: Any) -> Any:
    # Excel itself makes a number of a text that looks like one
    return _text(cell) if field == "text" and isinstance(cell, int | float) and not isinstance(cell, bool) else cell


def _text(cell: Any) -> str:
    return f"{int(cell)}" if isinstance(cell, float) and cell.is_integer() else f"{cell}"
