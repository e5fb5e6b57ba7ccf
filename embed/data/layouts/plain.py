"""Plain tables with known columns: MultiOFF, Hateful Memes, PrideMM, MUTE, MemeLens and any like them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache import SPLITS
from embed.base.errors import DatasetError, RowError
from embed.data.columns import Columns
from embed.data.layouts.reading import Fields, Reading, split_in
from embed.data.tables import Row, find_tables, format_of, read_table, stem_of, unusable
from embed.data.understood import table_name


def recognise(folder: Path) -> bool:
    """Whether the folder holds tables, or is one."""
    try:
        return bool(find_tables(folder))
    except DatasetError:
        return False


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows of all usable tables. Raises DatasetError, naming the tables and what to do."""
    tables = _usable(reading)
    answers = _answers(tables)
    for table in sorted(tables, key=lambda table: SPLITS.index(split_in(stem_of(table)) or "train")):
        if table in answers.values():
            continue
        labels = _labels(reading, answers[table]) if table in answers else {}
        named = split_in(stem_of(table))
        split = named or ("train" if len(tables) - len(answers) == 1 else "")
        yield from reading.table(table, split, change=lambda fields, labels=labels: _with_label(fields, labels))  # type: ignore[misc]


def _usable(reading: Reading) -> dict[Path, Columns]:
    """The tables of memes and their columns; the others are noted with the reason."""
    found = find_tables(reading.data)
    usable, wrong = dict[Path, Columns](), dict[Path, str]()
    stems = dict[str, Path]()
    for table in found:
        columns = Columns(reading.choices.given_columns)
        reason = unusable(table, columns)
        if not reason and stem_of(table).lower() in stems:
            reason = f"the same name as {stems[stem_of(table).lower()].name}, which is read"
        if reason:
            wrong[table] = reason
        else:
            usable[table] = columns
            stems[stem_of(table).lower()] = table
    if any("image" in columns.found for columns in usable.values()):
        for table, columns in list(usable.items()):
            if "image" not in columns.found and not _is_answer(columns):
                wrong[table] = "no column for image"
                del usable[table]
    for table, reason in wrong.items():
        if not usable or (
            split_in(stem_of(table))
            and format_of(table) not in (".json",)
            and "which is read" not in reason
            and "predictions" not in reason
        ):
            raise DatasetError(
                f"{table}: {reason}"
                if not usable and len(wrong) == 1
                else _none(reading.data, wrong)
                if not usable
                else f"{table}: {reason}"
            )
        reading.understood.left_out[table_name(table, reading.data)] = reason
    _check_splits(reading.data, usable)
    return usable


def _none(data: Path, wrong: dict[Path, str]) -> str:
    return f"{data}: none of its tables can be read. " + "; ".join(
        f"{table.name}: {why}" for table, why in list(wrong.items())[:4]
    )


def _check_splits(data: Path, tables: dict[Path, Columns]) -> None:
    """Raise DatasetError where several tables do not say their splits."""
    unclear = [
        table
        for table, found in tables.items()
        if not split_in(stem_of(table)) and "split" not in found.found and not _is_answer(found)
    ]
    if len(tables) > 1 and unclear and len(tables) - sum(map(_is_answer, tables.values())) > 1:
        names = ", ".join(table.name for table in tables)
        raise DatasetError(
            f"{data}: which split is {unclear[0].name}? Its tables are {names}. Give one as DATA={unclear[0]}, move the "
            "others away, or name the files train, validation and test, or give them a column `split`"
        )


def _is_answer(columns: Columns) -> bool:
    """Whether a table holds labels only, for the memes of another one."""
    return "label" in columns.found and "text" not in columns.found


def _answers(tables: dict[Path, Columns]) -> dict[Path, Path]:
    """{table without labels: table of its labels}, of the same split."""
    lacking = {split_in(stem_of(table)): table for table, columns in tables.items() if "label" not in columns.found}
    answers = [table for table, columns in tables.items() if _is_answer(columns)]
    return {lacking[split]: table for table in answers if (split := split_in(stem_of(table))) in lacking}


def _labels(reading: Reading, table: Path) -> dict[str, Any]:
    """{image or id: label} of a table of labels."""
    reading.understood.left_out[table_name(table, reading.data)] = "its labels are joined to the memes of its split"
    labels = dict[str, Any]()
    for row in read_table(table, Columns(reading.choices.given_columns), reading.understood.note):
        if not isinstance(row, RowError):
            labels |= {_key(row[1].get(name)): row[1].get("label") for name in ("image", "id") if name in row[1]}
    return labels


def _with_label(fields: Fields, labels: dict[str, Any]) -> Fields:
    if not labels or fields.get("label") is not None:
        return fields
    keys = (_key(fields.get(name)) for name in ("image", "id"))
    return fields | {"label": next((labels[key] for key in keys if key in labels), None)}


def _key(value: Any) -> str:
    return Path(f"{value}".replace("\\", "/")).name.lower()
