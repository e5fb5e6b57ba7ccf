"""Columns of vectors that are read in pieces: no column of an exchange file is ever in memory as a whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# A column in so many pieces: the vectors of a piece may lie in all segments of a store, which are read for each piece.
_PIECES = 8
# The smallest piece; 4,096 rows of 1,024 numbers are 16 MB.
_LEAST_ROWS = 4096


@dataclass(frozen=True)
class VectorColumn:
    """(N, D) float32 vectors. pieces: reads them once more, as arrays of (M, D) in the order of the rows."""

    shape: tuple[int, int]
    pieces: Callable[[], Iterator[np.ndarray]]

    def __len__(self) -> int:
        return self.shape[0]


def piece_rows(count: int) -> int:
    """The rows of a piece, for `count` in all."""
    return max(_LEAST_ROWS, -(-count // _PIECES))
