"""The memes of a data set: one row each, held in columns."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np

from cache import NumberColumn, TextBuilder, TextColumn

# Rows that are taken apart at once.
_BLOCK = 1 << 12


class Meme(NamedTuple):
    """One row of a data set.

    image: path inside the pictures' root, as POSIX; text: cleaned, may be empty; label: 1 offensive, 0 not,
    -1 unlabelled; split: "train" | "validation" | "test"; where: file and row; problem: "" or why it is skipped;
    group: target group of the meme as the data name it, or ""; agreement: share of its annotators who gave the label.
    """

    id: str
    image: str
    text: str
    label: int
    split: str
    where: str
    problem: str = ""
    group: str = ""
    agreement: float = 1.0


@dataclass(frozen=True, eq=False)
class Memes(Sequence[Meme]):
    """N memes; the columns are the fields of `Meme`, in their order. labels: int8; agreements: float64."""

    ids: TextColumn
    images: TextColumn
    texts: TextColumn
    labels: NumberColumn
    splits: TextColumn
    where: TextColumn
    problems: TextColumn
    groups: TextColumn
    agreements: NumberColumn

    @classmethod
    def of(cls, rows: Iterable[Meme]) -> "Memes":
        """The memes of these rows; columns are returned as they are."""
        if isinstance(rows, Memes):
            return rows
        held: list[Any] = [array(_NUMBERS[name]) if name in _NUMBERS else TextBuilder() for name in _NAMES]
        rest = iter(rows)
        while block := list(islice(rest, _BLOCK)):
            for column, values in zip(held, zip(*block)):
                column.extend(values)
        columns: list[Any] = [NumberColumn(np.array(c)) if isinstance(c, array) else c.column() for c in held]
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Meme: ...
    @overload
    def __getitem__(self, at: slice) -> "Memes": ...
    def __getitem__(self, at: int | slice) -> "Meme | Memes":
        values = (column[at] for column in self._columns)
        return Memes(*values) if isinstance(at, slice) else Meme(*values)

    def __iter__(self) -> Iterator[Meme]:
        return map(Meme, *self._columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Meme.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def with_texts(self, texts: Mapping[int, str]) -> "Memes":
        """The memes with {row: text} replaced."""
        return replace(self, texts=TextColumn.of(texts.get(row, text) for row, text in enumerate(self.texts)))

    @property
    def _columns(self) -> list[Any]:
        return [getattr(self, name) for name in _NAMES]


_NUMBERS = {"labels": "b", "agreements": "d"}
_NAMES = tuple(f.name for f in fields(Memes))
