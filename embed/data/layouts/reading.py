"""What every layout shares: it names tables and says how their rows differ; `Reading.table` reads them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from embed.base.errors import RowError
from embed.data.choices import Choices
from embed.data.columns import Columns
from embed.data.tables import Row, read_table, unusable
from embed.data.understood import Understood, table_name

Fields = dict[str, Any]
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class DataLayout:
    """A layout. recognise: whether a folder has it; rows: all rows, train before validation before test."""

    name: str
    recognise: Callable[[Path], bool]
    rows: Callable[["Reading"], Iterator[Row | RowError]]


@dataclass(frozen=True)
class Reading:
    """One reading of a data folder. data: the folder, or one table."""

    data: Path
    choices: Choices = field(default_factory=Choices)
    understood: Understood = field(default_factory=Understood)

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.data if self.data.is_dir() else self.data.parent

    def table(
        self,
        table: Path,
        split: str = "train",
        columns: dict[str, str] | None = None,
        change: Callable[[Fields], Fields] = lambda fields: fields,
    ) -> Iterator[Row | RowError]:
        """The rows of a table.

        split: of the rows that name none; columns: {field: column} of a published table, which the user's choices
        replace; change: maps the fields of a row to those of a meme. A ValueError of it becomes the row's error.
        """
        name = table_name(table, self.data)
        matcher = Columns(
            (columns or {}) | self.choices.given_columns, self.understood.columns.found, self.understood.columns.unused
        )
        place = table.parent.relative_to(self.folder).as_posix() if self.folder in table.parents else ""
        self.understood.rows[name] += 0
        usual = {"default_split": split, "folders": ("" if place == "." else place,)}
        for row in read_table(table, matcher, self.understood.note):
            self.understood.rows[name] += 1
            if isinstance(row, RowError):
                yield row
                continue
            try:
                fields = change(row[1])
            except (ValueError, TypeError, KeyError, IndexError) as error:
                yield RowError(row[0], f"not a row of this layout ({error})")
                continue
            yield row[0], usual | fields


@cache
def split_in(name: str) -> str:
    """The split named in a file name or a cell: `Training_meme_dataset`, `dev_seen`, `memes-test`; or ""."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def below(folder: Path, *names: str) -> Path | None:
    """The first file of these names in the folder, or in the folders below it that tables are published in."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ():
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def answers_in(
    table: Path | None, columns: Columns | None = None, note: Callable[[str], None] = lambda text: None
) -> Iterator[Fields]:
    """The fields of a table of labels for the memes of another one, without the rows that cannot be read."""
    for row in read_table(table, columns, note) if table and table.is_file() else ():
        if not isinstance(row, RowError):
            yield row[1]


def header_of(table: Path | None) -> set[str]:
    """The column names of a table's first row; none for a table that cannot be read."""
    columns = Columns()
    if table is None or unusable(table, columns):
        return set()
    return {*columns.found.values(), *columns.unused}
