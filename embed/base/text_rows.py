"""Find the rows of many texts, and repeats among them, by their hashes: 16 bytes a row.

Python's hashes of 64 bits are keyed anew for each process, so nobody can choose texts that share one.
"""

from collections.abc import Sequence

import numpy as np


class TextRows:
    """The rows of N texts that may repeat; of equal texts the last one counts."""

    def __init__(self, texts: Sequence[str]) -> None:
        hashes = _hashes(texts)
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._rows]

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """(M,) int64: the row of each text, -1 where it is absent; of two in 10 billion billion texts another's row."""
        wanted = _hashes(texts)
        if not len(self._rows):
            return np.full(len(wanted), -1)
        at = np.searchsorted(self._hashes, wanted, "right") - 1
        return np.where((at >= 0) & (self._hashes[at] == wanted), self._rows[at], -1)


def first_rows(texts: Sequence[str]) -> np.ndarray:
    """(N,) int64: for each text the first row with the same text."""
    hashes = _hashes(texts)
    order = np.argsort(hashes, kind="stable")
    begins = np.append(True, hashes[order[1:]] != hashes[order[:-1]])[: len(order)]
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    for row in np.flatnonzero(first != np.arange(len(first))).tolist():
        if texts[row] != texts[int(first[row])]:
            first[row] = row
    return first


def _hashes(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, texts), np.int64, len(texts))
