"""Columns of many rows in a few arrays: texts, content keys, numbers. Each reads like an immutable list.

A list of a million `str` takes 60 to 120 bytes a row beside the text; a column takes 4 to 8. Values are made when they are
read, so a column is passed on and indexed by arrays (`take`) rather than copied into a list.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any, Self, TypeVar, overload

import numpy as np

T = TypeVar("T")
# Rows that are decoded at once.
_BLOCK = 1 << 14
# Surrogates represent file-name bytes that are not UTF-8.
_ENCODING = ("utf-8", "surrogatepass")
_DIGEST = 32
_NO_KEY = "0" * (2 * _DIGEST)


class Column(Sequence[T]):
    """N values. It equals any sequence of the same values; a slice is a column."""

    def take(self, rows: np.ndarray) -> Self:
        """The column of these rows, (M,) integers or (N,) bool. Raises IndexError."""
        raise NotImplementedError

    def _values(self, start: int, stop: int) -> list[T]:
        raise NotImplementedError

    def _slice(self, rows: range) -> Self:
        return self.take(np.arange(rows.start, rows.stop, rows.step))

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Self: ...
    def __getitem__(self, at: int | slice) -> T | Self:
        rows = range(len(self))[at]  # raises IndexError
        if isinstance(rows, range):
            return self._slice(rows)
        return self._values(rows, rows + 1)[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), _BLOCK):
            yield from self._values(start, min(start + _BLOCK, len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        if type(self) is type(other):
            return all(map(np.array_equal, vars(self).values(), vars(other).values()))
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class TextColumn(Column[str]):
    """Texts as one buffer. utf8: (B,) uint8, surrogates passed; ends: (N,) uint32 or int64, where each text ends in it."""

    def __init__(self, utf8: np.ndarray, ends: np.ndarray) -> None:
        """Take the arrays as they are. Raises ValueError where the last end is not the buffer's."""
        if len(utf8) != (int(ends[-1]) if len(ends) else 0):
            raise ValueError(f"texts that end at {ends[-1:]} need a buffer of that length, got {len(utf8)} bytes")
        self.utf8 = utf8
        self.ends = ends.astype(np.uint32, copy=False) if len(utf8) < 1 << 32 else ends.astype(np.int64, copy=False)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextColumn":
        """The column of these texts; a column is returned as it is."""
        if isinstance(texts, TextColumn):
            return texts
        builder = TextBuilder()
        builder.extend(texts)
        return builder.column()

    @classmethod
    def sparse(cls, count: int, texts: Mapping[int, str]) -> "TextColumn":
        """The column of `count` texts that are "" but for {row: text}."""
        rows = sorted(texts)
        held = cls.of(texts[row] for row in rows)
        lengths = np.zeros(count, np.int64)
        lengths[rows] = held.lengths
        return cls(held.utf8, np.cumsum(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: bytes of each text."""
        return np.diff(self.ends.astype(np.int64), prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, rows: np.ndarray) -> "TextColumn":
        """The column of these rows, (M,) integers or (N,) bool. Raises IndexError."""
        ends = self.ends.astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])[rows] if len(ends) else ends[rows]
        ends = ends[rows]
        utf8, bytes_of = bytearray(), np.ascontiguousarray(self.utf8).data
        for block in range(0, len(ends), _BLOCK):
            places = slice(block, block + _BLOCK)
            for start, end in zip(starts[places].tolist(), ends[places].tolist()):
                utf8 += bytes_of[start:end]
        return TextColumn(np.frombuffer(utf8, np.uint8), np.cumsum(ends - starts))

    def _values(self, start: int, stop: int) -> list[str]:
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop].tolist()
        joined = self.utf8[first : ends[-1]].tobytes()
        if joined.isascii():
            text = joined.decode("ascii")
            return [text[a - first : b - first] for a, b in zip([first, *ends], ends)]
        return [joined[a - first : b - first].decode(*_ENCODING) for a, b in zip([first, *ends], ends)]


class TextBuilder:
    """Builds a column of texts that come one after the other."""

    def __init__(self) -> None:
        self._utf8, self._ends = bytearray(), array("q")

    def extend(self, texts: Iterable[str]) -> None:
        """Append the texts."""
        rest = iter(texts)
        while block := list(islice(rest, _BLOCK)):
            joined = "".join(block)
            lengths = map(len, block if joined.isascii() else [text.encode(*_ENCODING) for text in block])
            self._ends.extend(islice(accumulate(lengths, initial=len(self._utf8)), 1, None))
            self._utf8 += joined.encode(*_ENCODING)

    def column(self) -> TextColumn:
        """The column of all texts so far; call once, since it keeps the buffers."""
        return TextColumn(np.frombuffer(self._utf8, np.uint8), np.frombuffer(self._ends, np.int64))


class KeyColumn(Column[str]):
    """Content keys as SHA-256 digests, 64 hex digits each, "" where there is none. raw: (N, 32) uint8, zeros for ""."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = np.ascontiguousarray(raw, np.uint8).reshape(-1, _DIGEST)

    @classmethod
    def of(cls, keys: Iterable[str]) -> "KeyColumn":
        """The column of these keys; a column is returned as it is. Raises ValueError for what is no key."""
        if isinstance(keys, KeyColumn):
            return keys
        raw, rest = bytearray(), iter(keys)
        while block := list(islice(rest, _BLOCK)):
            if wrong := next((key for key in block if len(key) not in (0, 2 * _DIGEST)), None):
                raise ValueError(f"{wrong!r}: expected a key of {2 * _DIGEST} hex digits, or none")
            raw += bytes.fromhex("".join(key or _NO_KEY for key in block))
        return cls(np.frombuffer(raw, np.uint8))

    @classmethod
    def of_digits(cls, texts: TextColumn) -> "KeyColumn":
        """The column of keys that are held as texts. Raises ValueError for what is no key."""
        lengths = texts.lengths
        if not np.isin(lengths, (0, 2 * _DIGEST)).all():
            raise ValueError(f"expected keys of {2 * _DIGEST} hex digits")
        raw = bytearray()
        for start in range(0, len(texts.utf8), 2 * _DIGEST * _BLOCK):
            raw += bytes.fromhex(texts.utf8[start : start + 2 * _DIGEST * _BLOCK].tobytes().decode("ascii"))
        held = np.zeros((len(texts), _DIGEST), np.uint8)
        held[lengths > 0] = np.frombuffer(raw, np.uint8).reshape(-1, _DIGEST)
        return cls(held)

    def digits(self) -> TextColumn:
        """The keys as texts."""
        present, utf8 = self.present, bytearray()
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            utf8 += self.raw[block][present[block]].tobytes().hex().encode()
        return TextColumn(np.frombuffer(utf8, np.uint8), np.cumsum(present * (2 * _DIGEST)))

    @property
    def present(self) -> np.ndarray:
        """(N,) bool: whether there is a key."""
        return np.any(self.raw, axis=1)

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, rows: np.ndarray) -> "KeyColumn":
        """The column of these rows, (M,) integers or (N,) bool. Raises IndexError."""
        return KeyColumn(self.raw[rows])

    def _slice(self, rows: range) -> "KeyColumn":
        return KeyColumn(self.raw[rows.start : rows.stop]) if rows.step == 1 else super()._slice(rows)

    def _values(self, start: int, stop: int) -> list[str]:
        digits = self.raw[start:stop].tobytes().hex()
        keys = (digits[at : at + 2 * _DIGEST] for at in range(0, len(digits), 2 * _DIGEST))
        return [key if key != _NO_KEY else "" for key in keys]


class NumberColumn(Column[Any]):
    """Numbers, read as Python's own. raw: (N,) array, which numpy's functions take in the column's place."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.raw, dtype, copy=copy)

    def take(self, rows: np.ndarray) -> "NumberColumn":
        """The column of these rows, (M,) integers or (N,) bool. Raises IndexError."""
        return NumberColumn(self.raw[rows])

    def _values(self, start: int, stop: int) -> list[Any]:
        return self.raw[start:stop].tolist()
