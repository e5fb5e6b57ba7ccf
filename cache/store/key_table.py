"""Find many content keys at once among millions: one sorted array instead of a dict of str.

12 bytes a key beside the keys themselves; a dict of hex digits takes some 240.
"""

import numpy as np

from cache.columns import KeyColumn

# Keys that are looked up at once, which bounds the memory of a lookup.
_BLOCK = 1 << 16


class KeyTable:
    """The rows of keys that may repeat; of equal keys the last one counts.

    rows: (D,) uint32 or int64, the row of each distinct key, in the order of the keys.
    """

    def __init__(self, keys: KeyColumn) -> None:
        """Sort N keys, none of them ""; the column is kept, not copied."""
        self._words = _words(keys.raw)
        heads = _heads(self._words)
        rows = np.argsort(heads, kind="stable")
        same, equal = self._neighbours(rows, heads)
        if (same & ~equal).any():  # different keys with the same first 8 bytes: made on purpose
            rows = np.lexsort([*(_big_endian(self._words[:, word]) for word in (3, 2, 1)), heads])
            _, equal = self._neighbours(rows, heads)
        rows = rows[np.append(~equal, True)] if len(rows) else rows
        self.rows = rows.astype(np.uint32) if len(heads) < 1 << 32 else rows
        self._heads = heads[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> KeyColumn:
        """The distinct keys, sorted."""
        return KeyColumn(self._words[self.rows].view(np.uint8))

    def find(self, keys: KeyColumn) -> np.ndarray:
        """(M,) int64: the row of each key, -1 where it is absent."""
        words = _words(keys.raw)
        found = np.full(len(words), -1, np.int64)
        for start in range(0, len(words), _BLOCK):
            self._find(words[start : start + _BLOCK], found[start : start + _BLOCK])
        return found

    def _find(self, words: np.ndarray, found: np.ndarray) -> None:
        heads = _heads(words)
        at = np.searchsorted(self._heads, heads)
        left = np.arange(len(words))
        while len(left):  # more than twice only where keys share their first 8 bytes
            left = left[at[left] < len(self)]
            left = left[self._heads[at[left]] == heads[left]]
            rows = self.rows[at[left]]
            equal = (self._words[rows] == words[left]).all(axis=1)
            found[left[equal]] = rows[equal]
            left = left[~equal]
            at[left] += 1

    def _neighbours(self, rows: np.ndarray, heads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N - 1,) bool: whether the first 8 bytes of a row and the next are the same, and whether the keys are."""
        same = heads[rows[1:]] == heads[rows[:-1]]
        equal = np.zeros_like(same)
        at = np.flatnonzero(same)
        equal[at] = (self._words[rows[at]] == self._words[rows[at + 1]]).all(axis=1)
        return same, equal


def _words(raw: np.ndarray) -> np.ndarray:
    """(N, 32) uint8 -> (N, 4) uint64 of the same memory, to be compared for equality only."""
    return raw.view(np.uint64)


def _heads(words: np.ndarray) -> np.ndarray:
    """The first 8 bytes as numbers that sort as the bytes do."""
    return _big_endian(words[:, 0])


def _big_endian(word: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(word).view(">u8").astype(np.uint64)
