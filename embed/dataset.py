"""Read a folder of memes in one of the layouts people have; make every published label spelling 1 or 0.

It opens the tables, not the pictures, and knows nothing of CLIP or of vectors.

    MultiOFF        Split Dataset/{Training,Validation,Testing}_*.csv and Labelled Images/
    Hateful Memes   train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/
    plain CSV       any .csv in the folder (or the .csv itself), with named columns and perhaps a `split` column
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from embed.text import clean_text

# The header names in use for each field; the first is MultiOFF's.
_COLUMNS = {
    "image": ("image_name", "image", "img", "image_path", "filename", "file_name", "file"),
    "text": ("sentence", "text", "caption"),
    "label": ("label", "class"),
    "split": ("split",),
    "id": ("id",),
}
_REQUIRED = ("image", "text", "label")
_LABELS = {
    **dict.fromkeys(("offensive", "offensiv", "hateful", "1", "10", "true"), 1),
    **dict.fromkeys(("nonoffensive", "nonoffensiv", "notoffensive", "nothateful", "nonhateful", "0", "00", "false"), 0),
}
_SPLITS = {"train": "train", "val": "validation", "dev": "validation", "test": "test"}
_IMAGE_FOLDERS = ("Labelled Images", "", "images", "img")
UNLABELLED = -1


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


@dataclass(frozen=True)
class Meme:
    """One row of a data set.

    image: path inside the data folder, as POSIX; text: cleaned, may be empty; label: 1 offensive, 0 not,
    -1 unlabelled; split: "train" | "validation" | "test"; where: file and row; problem: "" or why it is skipped.
    """

    id: str
    image: str
    text: str
    label: int
    split: str
    where: str
    problem: str = ""


def read_dataset(data: Path) -> tuple[Path, list[Meme]]:
    """Read every row that the folder (or the one CSV) names: the pictures' root, and the rows in file order.

    Raises DatasetError for no such folder, no table, a missing column or an unknown label. A row that cannot
    be used on its own account (its id came before) is kept, with its `problem`.
    """
    if not data.exists():
        raise DatasetError(f"{data}: no such folder; DATA=<folder> takes a folder with images and a CSV or JSON lines")
    root = data if data.is_dir() else data.parent
    rows = [meme for table in _tables(data) for meme in _read_table(table, root)]
    if not rows:
        raise DatasetError(f"{data}: its tables hold no rows")
    return root, _mark_repeats(rows)


def parse_label(value: Any) -> int:
    """1 for offensive, 0 for not, from any published spelling. Raises ValueError for anything else."""
    spelling = re.sub(r"[^a-z0-9]", "", str(value).lower())
    if spelling not in _LABELS:
        raise ValueError(f"unknown label {value!r}; write offensive or non-offensive (or 1 or 0)")
    return _LABELS[spelling]


def _tables(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    for folder, pattern in ((data / "Split Dataset", "*.csv"), (data, "*.jsonl"), (data, "*.csv")):
        found = sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))
        if found:
            # train, validation, test: the order of _SPLITS, whatever the files' alphabet says
            return sorted(found, key=lambda p: list(_SPLITS).index(next(_prefixes(p.stem), "train")))
    raise DatasetError(f"{data}: no table; put a CSV with the columns image_name, sentence, label (or .jsonl) there")


def _prefixes(name: str) -> Iterator[str]:
    return (prefix for prefix in _SPLITS if name.lower().startswith(prefix))


def _read_table(table: Path, root: Path) -> Iterator[Meme]:
    default_split = _SPLITS[next(_prefixes(table.stem), "train")]
    for where, fields in _records(table):
        try:
            yield _meme(fields, root, default_split, where)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error


def _records(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row as (file and row, {our name for the column: its value})."""
    reader = _json_lines if table.suffix == ".jsonl" else _csv_rows
    try:
        yield from reader(table)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{table}: not a CSV file ({error})") from error


def _csv_rows(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = _match_columns(table, reader.fieldnames or [])
        for number, row in enumerate(reader, start=2):  # as a spreadsheet counts: the header is row 1
            where = f"{table.name}, row {number}"
            if None in row:
                raise DatasetError(f"{where}: more fields than the header has; quote a text that holds a comma")
            yield where, {ours: row[theirs] for ours, theirs in columns.items()}


def _json_lines(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with table.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            where = f"{table.name}, row {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(f"{where}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{where}: not a JSON object")
            columns = _match_columns(table, [*row, "label"], where)
            yield (
                where,
                {ours: row.get(theirs) for ours, theirs in columns.items() if ours != "label"}
                | (
                    {"label": row.get(columns["label"], UNLABELLED)}  # published test sets come without labels
                ),
            )


def _match_columns(table: Path, header: list[str], where: str = "") -> dict[str, str]:
    lowered = {name.strip().lower(): name for name in header}
    columns = {ours: next((lowered[n] for n in names if n in lowered), None) for ours, names in _COLUMNS.items()}
    missing = [ours for ours in _REQUIRED if columns[ours] is None]
    if missing:
        wanted = "; ".join(f"{ours}: one of {', '.join(_COLUMNS[ours])}" for ours in missing)
        raise DatasetError(f"{where or table}: no column for {wanted}. It has: {', '.join(header) or 'nothing'}")
    return {ours: theirs for ours, theirs in columns.items() if theirs is not None}


def _meme(fields: dict[str, Any], root: Path, default_split: str, where: str) -> Meme:
    name = str(fields["image"] or "").strip()
    if not name:
        raise ValueError("no image name; give the picture's file name or delete the row")
    split = str(fields.get("split") or "").strip().lower()
    if split and next(_prefixes(split), None) is None:
        raise ValueError(f"unknown split {fields['split']!r}; write train, validation or test")
    label = fields["label"]
    image, problem = _find_image(root, name)
    return Meme(
        id=str(fields["id"] if fields.get("id") not in (None, "") else name),
        image=image,
        text=clean_text(str(fields["text"] or "")),
        label=UNLABELLED if label == UNLABELLED else parse_label(label),
        split=_SPLITS[next(_prefixes(split))] if split else default_split,
        where=where,
        problem=problem,
    )


def _find_image(root: Path, name: str) -> tuple[str, str]:
    """The picture's path inside `root`, and "" or why it cannot be used."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        return name, "its path leads out of the data folder"
    candidates = [(PurePosixPath(folder) / relative).as_posix() for folder in _IMAGE_FOLDERS]
    found = next((c for c in candidates if _is_file(root / c)), None)
    return (found, "") if found else (name, "no such file in the data folder")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False


def _mark_repeats(rows: list[Meme]) -> list[Meme]:
    """A second row of one id is skipped if it is the same meme, and gets an id of its own if its text differs."""
    first: dict[tuple[str, str], Meme] = {}
    ids: set[str] = set()
    marked = []
    for meme in rows:
        earlier = first.setdefault((meme.id, meme.text), meme)
        if earlier is not meme:
            meme = replace(meme, problem=meme.problem or f"the same id and text as {earlier.where}")
        elif meme.id in ids:
            number = next(n for n in range(2, len(rows) + 2) if f"{meme.id}#{n}" not in ids)
            meme = replace(meme, id=f"{meme.id}#{number}")
        ids.add(meme.id)
        marked.append(meme)
    return marked
