"""Plain tables with known columns: MultiOFF, Hateful Memes, PrideMM, MUTE, MemeLens and any like them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cache import SPLITS
from embed.base.errors import DatasetError, RowError
from embed.data.columns import Columns
from embed.data.layouts.reading import Fields, Reading, answers_in, split_in
from embed.data.tables import Row, find_tables, format_of, is_predictions, stem_of, unusable
from embed.data.understood import table_name

Tables = dict[Path, Columns]


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
    memes = [table for table in tables if table not in answers.values()]
    _check_splits(reading.data, memes, tables)
    for table in sorted(memes, key=lambda table: SPLITS.index(_split(table) or "train")):
        labels = _labels(reading, answers[table]) if table in answers else {}
        split = _split(table) or ("train" if len(memes) == 1 else "")
        yield from reading.table(table, split, change=partial(_with_label, labels))


def _usable(reading: Reading) -> Tables:
    """The tables of memes and of their labels, with their columns; the others are noted with the reason."""
    tables, reasons = Tables(), dict[Path, str]()
    for table in find_tables(reading.data):
        columns = Columns(reading.choices.given_columns)
        twin = next((other for other in tables if stem_of(other).lower() == stem_of(table).lower()), None)
        if reason := unusable(table, columns):
            reasons[table] = reason
        elif is_predictions(columns):
            reading.understood.left_out[table_name(table, reading.data)] = "predictions of `predict-folder`, not labels"
        elif twin:
            reading.understood.left_out[table_name(table, reading.data)] = (
                f"the same name as {twin.name}, which is read"
            )
        else:
            tables[table] = columns
    # an id may be the picture's name, but not beside tables that name pictures
    if any("image" in columns.found for columns in tables.values()):
        lacking = [
            table for table, columns in tables.items() if "image" not in columns.found and not _is_answer(columns)
        ]
        for table in lacking:
            del tables[table]
            reasons[table] = "no column for image"
    _check_reasons(reading.data, tables, reasons)
    reading.understood.left_out |= {table_name(table, reading.data): reason for table, reason in reasons.items()}
    return tables


def _check_reasons(data: Path, tables: Tables, reasons: dict[Path, str]) -> None:
    """Raise DatasetError where no table can be used, or one that is named as a split cannot."""
    named = [table for table in reasons if _split(table) and format_of(table) != ".json"]
    if named or (not tables and len(reasons) == 1):
        table = (named or list(reasons))[0]
        raise DatasetError(f"{table}: {reasons[table]}")
    if not tables:
        told = "; ".join(f"{table.name}: {reason}" for table, reason in list(reasons.items())[:4])
        raise DatasetError(f"{data}: none of its tables can be read. {told or 'They are predictions, not labels'}")


def _check_splits(data: Path, memes: list[Path], tables: Tables) -> None:
    """Raise DatasetError where one of several tables does not say its split."""
    unclear = [table for table in memes if not _split(table) and "split" not in tables[table].found]
    if len(memes) > 1 and unclear:
        raise DatasetError(
            f"{data}: which split is {unclear[0].name}? Its tables are {', '.join(table.name for table in memes)}. Give one "
            f"as DATA={unclear[0]}, move the others away, or name the files train, validation and test, or give them a "
            "column `split`"
        )


def _split(table: Path) -> str:
    return split_in(stem_of(table))


def _is_answer(columns: Columns) -> bool:
    """Whether a table holds labels only, for the memes of another one."""
    return "label" in columns.found and "text" not in columns.found


def _answers(tables: Tables) -> dict[Path, Path]:
    """{table without labels: table of its labels}, of the same split."""
    lacking = {_split(table): table for table, columns in tables.items() if "label" not in columns.found}
    answers = [table for table, columns in tables.items() if _is_answer(columns) and _split(table) in lacking]
    return {lacking[_split(table)]: table for table in answers}


def _labels(reading: Reading, table: Path) -> dict[str, Any]:
    """{image or id: label} of a table of labels."""
    reading.understood.note(f"{table_name(table, reading.data)}: its labels are joined to the memes of its split")
    rows = answers_in(table, Columns(reading.choices.given_columns), reading.understood.note)
    return {key: fields.get("label") for fields in rows for key in _keys(fields)}


def _with_label(labels: dict[str, Any], fields: Fields) -> Fields:
    if not labels:
        return fields
    return {"label": next((labels[key] for key in _keys(fields) if key in labels), None)} | fields


def _keys(fields: Fields) -> list[str]:
    """What a row may be joined by: its picture's name without folders, and its id."""
    names = [f"{fields[name]}" for name in ("image", "id") if name in fields]
    return [Path(name.replace("\\", "/")).name.lower() for name in names]
