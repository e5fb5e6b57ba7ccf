"""Stamps and keys of pictures from earlier runs, by which unchanged files keep their key unread."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cache import KeyColumn, TextBuilder, TextColumn
from embed.base.text_rows import TextRows

Triple = tuple[str, str, str]
"""(image, stamp of its file, key)."""


class Hints:
    """N pictures of earlier runs, with the stamps of their files and their keys; of equal names the last counts."""

    def __init__(self, images: TextColumn, stamps: TextColumn, keys: KeyColumn) -> None:
        self.images, self.stamps, self.keys = images, stamps, keys

    @classmethod
    def of(cls, triples: Iterable[Triple]) -> "Hints":
        """The hints of (image, stamp, key) triples."""
        images, stamps, keys = TextBuilder(), TextBuilder(), list[str]()
        for image, stamp, key in triples:
            images.extend([image])
            stamps.extend([stamp])
            keys.append(key)
        return cls(images.column(), stamps.column(), KeyColumn.of(keys))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Triple]:
        return zip(self.images, self.stamps, self.keys)

    def find(self, images: Sequence[str]) -> tuple[TextColumn, KeyColumn]:
        """The stamps and keys of M pictures, "" without one."""
        if images == self.images:
            return self.stamps, self.keys
        rows = TextRows(self.images).find(images)
        known = np.flatnonzero(rows >= 0)
        raw = np.zeros((len(images), self.keys.raw.shape[1]), np.uint8)
        raw[known] = self.keys.raw[rows[known]]
        stamps = self.stamps.take(rows[known])
        lengths = np.zeros(len(images), np.int64)
        lengths[known] = stamps.lengths
        return TextColumn(stamps.utf8, np.cumsum(lengths)), KeyColumn(raw)


NO_HINTS = Hints(TextColumn.of(()), TextColumn.of(()), KeyColumn.of(()))


def joined(*hints: Hints) -> Hints:
    """The hints of all; those of later ones count."""
    held = [part for part in hints if len(part)]
    if len(held) < 2:
        return held[0] if held else NO_HINTS
    images, stamps = TextBuilder(), TextBuilder()
    for part in held:
        images.extend(part.images)
        stamps.extend(part.stamps)
    return Hints(images.column(), stamps.column(), KeyColumn(np.concatenate([part.keys.raw for part in held])))
