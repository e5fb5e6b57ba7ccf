"""Validate the columns of an exchange file; errors name file, column and row.

Rows are counted from 0, as in numpy and pandas.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.exchange.vectors import VectorColumn
from cache.index.dataset_index import SPLITS, group_name
from cache.index.parts import PARTS

_LABELS = {"1": 1, "0": 0, "-1": -1, "offensive": 1, "non-offensive": 0}


class UnusableTable(ValueError):
    """A file without usable vectors, ids, labels or splits."""


def cell_error(path: Path, column: str, row: int, problem: str) -> UnusableTable:
    """The exception for one cell."""
    return UnusableTable(f"{path}: column {column}, row {row} (counted from 0): {problem}")


def require_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raise UnusableTable unless the file name ends in one of `suffixes`."""
    if path.suffix not in suffixes:
        raise UnusableTable(f"{path}: expected a name that ends in {' or '.join(suffixes)}")


def same_lengths(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    """Raise UnusableTable unless all columns have the same length, and it is not 0."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UnusableTable(f"{path}: the columns differ in length ({listed}); expected one row per meme in each")
    if not min(lengths.values()):
        raise UnusableTable(f"{path}: column {next(iter(lengths))}: no rows")


def vectors(
    path: Path, column: str, shape: tuple[int, ...], dtype: np.dtype, pieces: Callable[[], Iterator[np.ndarray]]
) -> VectorColumn:
    """(N, D) numbers, which `pieces` reads, as a column of float32. Raises UnusableTable for other shapes and dtypes, and while
    it is read for NaN and infinity."""
    if len(shape) != 2 or not shape[1] or dtype.kind not in "fiu":
        raise UnusableTable(
            f"{path}: column {column}: expected numbers of shape (rows, dimensions), got {dtype} of shape {shape}"
        )

    def checked() -> Iterator[np.ndarray]:
        start = 0
        for piece in pieces():
            with np.errstate(over="ignore"):  # an overflow becomes infinite and is rejected below
                narrow = np.ascontiguousarray(piece, np.float32)
            finite = np.isfinite(narrow).all(axis=1)
            if not finite.all():
                raise cell_error(
                    path, column, start + int(np.argmin(finite)), "NaN, infinite, or too large for float32"
                )
            yield narrow
            start += len(piece)

    return VectorColumn((shape[0], shape[1]), checked)


def ids(path: Path, column: str, values: Sequence[Any]) -> list[str]:
    """N unique strings or integers, as strings. Raises UnusableTable."""
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise cell_error(path, column, row, f"expected a text or a whole number, got {value!r}")
        if first.setdefault(str(value), row) != row:
            raise cell_error(path, column, row, f"{value!r} is also in row {first[str(value)]}; ids must be unique")
    return list(first)


def labels(path: Path, column: str, values: Sequence[Any]) -> list[int]:
    """N labels, given as numbers or words, as 1 | 0 | -1. Raises UnusableTable."""
    found = []
    for row, value in enumerate(values):
        whole = int(value) if isinstance(value, (bool, float)) and value in (1, 0, -1) else value
        label = _LABELS.get(str(whole).strip().lower())
        if label is None:
            raise cell_error(path, column, row, f"expected 1, 0, -1 (none), offensive or non-offensive, got {value!r}")
        found.append(label)
    return found


def splits(path: Path, column: str, values: Sequence[Any]) -> list[str]:
    """N values, each one of SPLITS. Raises UnusableTable."""
    for row, value in enumerate(values):
        if value not in SPLITS:
            raise cell_error(path, column, row, f"expected one of {', '.join(SPLITS)}, got {value!r}")
    return list(values)


def groups(values: Sequence[Any]) -> list[str]:
    """N group names (see `group_name`), "" where there is none."""
    return [group_name(value) for value in values]


def parts(path: Path, column: str, values: Sequence[Any]) -> list[int]:
    """N integers from -1 to PARTS - 1. Raises UnusableTable."""
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < PARTS:
            raise cell_error(path, column, row, f"expected a whole number from -1 to {PARTS - 1}, got {value!r}")
    return list(values)
