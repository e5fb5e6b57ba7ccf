"""The rows of one kind in the segments of a store: which segment holds a key, and where. 48 bytes a key."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache.columns import KeyColumn
from cache.store.headers import KnownSegment
from cache.store.key_table import KeyTable


class KindRows:
    """Rows are counted through all segments, in their order; of a key in several, the last row counts."""

    def __init__(self, segments: Sequence[KnownSegment] = ()) -> None:
        self.segments = list(segments)
        self._table: KeyTable | None = None

    def add(self, segment: KnownSegment) -> None:
        """Add a segment, whose rows come last."""
        self.segments.append(segment)
        self._table = None

    @property
    def keys(self) -> KeyColumn:
        """The keys that have a vector, sorted."""
        return self._sorted().keys

    def find(self, keys: KeyColumn) -> np.ndarray:
        """(M,) int64: the row of each key, -1 where there is none."""
        return self._sorted().find(keys)

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """(M,) int32: the token counts of rows."""
        counts = [segment.header.tokens for segment in self.segments]
        return np.concatenate(counts)[rows] if counts else np.empty(0, np.int32)

    def by_segment(self, rows: np.ndarray) -> Iterator[tuple[Path, slice, np.ndarray]]:
        """For each segment with some of the ascending `rows`: its path, their places in `rows`, and its own rows."""
        ends = np.cumsum([len(segment.header.keys) for segment in self.segments], dtype=np.int64)
        cuts = np.concatenate([[0], np.searchsorted(rows, ends)])
        for number in np.flatnonzero(np.diff(cuts)):
            places = slice(int(cuts[number]), int(cuts[number + 1]))
            first = ends[number] - len(self.segments[number].header.keys)
            yield self.segments[number].path, places, rows[places] - first

    def held(self) -> dict[Path, np.ndarray]:
        """{segment: (L,) its rows that are read, ascending}, in the order of the segments."""
        none = {segment.path: np.empty(0, np.int64) for segment in self.segments}
        return none | {path: rows for path, _, rows in self.by_segment(np.sort(self._sorted().rows))}

    def failures(self) -> dict[str, str]:
        """{key: reason} of what could not be embedded, without what was later."""
        failed: dict[str, str] = {}
        for segment in self.segments:
            if len(segment.header.failed):
                failed |= segment.header.failures
        lost = self.find(KeyColumn.of(failed)) < 0
        return {key: reason for (key, reason), still in zip(failed.items(), lost.tolist(), strict=True) if still}

    def _sorted(self) -> KeyTable:
        if self._table is None:
            keys = KeyColumn(np.concatenate([np.empty((0, 32), np.uint8), *(s.header.keys.raw for s in self.segments)]))
            self._table = KeyTable(keys)
            self.segments = list(_sharing(keys, self.segments))
        return self._table


def _sharing(keys: KeyColumn, segments: Sequence[KnownSegment]) -> Iterator[KnownSegment]:
    """The segments with their keys as views of one array, so that the ones that were read are let go."""
    start = 0
    for segment in segments:
        stop = start + len(segment.header.keys)
        yield replace(segment, header=replace(segment.header, keys=keys[start:stop]))
        start = stop
