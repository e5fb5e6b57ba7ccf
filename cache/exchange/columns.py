"""The columns of a file of vectors, checked: each mistake is said in a sentence that names file, column and row.

It knows no file format and no store. Rows are counted from 0, as numpy and pandas count them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.index.dataset_index import SPLITS, group_name
from cache.index.parts import PARTS

_LABELS = {"1": 1, "0": 0, "-1": -1, "offensive": 1, "non-offensive": 0}


class UnusableTable(ValueError):
    """A file that holds no usable vectors, ids, labels or splits."""


def wrong(path: Path, column: str, row: int, what: str) -> UnusableTable:
    """The exception for one cell."""
    return UnusableTable(f"{path}: column {column}, row {row} (counted from 0): {what}")


def same_lengths(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    """Raise UnusableTable unless all columns have one length, and that is not 0."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UnusableTable(f"{path}: the columns differ in length ({said}); one row per meme is expected in each")
    if not min(lengths.values()):
        raise UnusableTable(f"{path}: column {next(iter(lengths))}: no rows")


def vectors(path: Path, column: str, values: np.ndarray) -> np.ndarray:
    """(N, D) float32 of (N, D) numbers. Raises UnusableTable for other shapes and kinds, NaN and infinite numbers."""
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        what = f"got {values.dtype} of shape {values.shape}"
        raise UnusableTable(f"{path}: column {column}: expected numbers of shape (rows, dimensions), {what}")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused
        narrow = np.ascontiguousarray(values, np.float32)
    bad = np.flatnonzero(~np.isfinite(narrow).all(axis=1))
    if len(bad):
        raise wrong(path, column, int(bad[0]), "NaN, infinite, or too large for float32")
    return narrow


def ids(path: Path, column: str, values: Sequence[Any]) -> list[str]:
    """Texts or whole numbers, each once, as texts. Raises UnusableTable."""
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise wrong(path, column, row, f"expected a text or a whole number, got {value!r}")
        if first.setdefault(str(value), row) != row:
            raise wrong(path, column, row, f"{value!r} stands in row {first[str(value)]} too; ids are unique")
    return list(first)


def labels(path: Path, column: str, values: Sequence[Any]) -> list[int]:
    """1, 0 and -1 of such numbers, or of words. Raises UnusableTable."""
    found = []
    for row, value in enumerate(values):
        whole = int(value) if isinstance(value, (bool, float)) and value in (1, 0, -1) else value
        label = _LABELS.get(str(whole).strip().lower())
        if label is None:
            raise wrong(path, column, row, f"expected 1, 0, -1 (none), offensive or non-offensive, got {value!r}")
        found.append(label)
    return found


def splits(path: Path, column: str, values: Sequence[Any]) -> list[str]:
    """The values themselves, once each is one of SPLITS. Raises UnusableTable."""
    for row, value in enumerate(values):
        if value not in SPLITS:
            raise wrong(path, column, row, f"expected one of {', '.join(SPLITS)}, got {value!r}")
    return list(values)


def groups(values: Sequence[Any]) -> list[str]:
    """The names of the memes' groups, "" where there is none; any value has one."""
    return [group_name(value) for value in values]


def parts(path: Path, column: str, values: Sequence[Any]) -> list[int]:
    """The values as whole numbers from -1 to PARTS - 1. Raises UnusableTable."""
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < PARTS:
            raise wrong(path, column, row, f"expected a whole number from -1 to {PARTS - 1}, got {value!r}")
    return list(values)
