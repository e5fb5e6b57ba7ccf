"""Merge small segments of a store, so that a cache of many short runs opens as fast as one long run's.

    python -m cache compact       merges all of them; the embedding job merges at its end, once there are some

Vectors, token counts and failures are unchanged, bit for bit. Of a key in several segments, the row that is read stays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.columns import KeyColumn
from cache.store import headers
from cache.store.manifest import Entry, manifest_entry
from cache.store.segments import KINDS, DamagedSegment, Segment, read_vectors, write_segment
from cache.store.vector_store import VectorStore

# 65,536 rows of 1024 float32 are 256 MB; three copies are in memory at once.
MOST_ROWS = 65_536
# A run that adds a few rows copies none until there are so many segments to merge.
MANY = 16


@dataclass(frozen=True)
class CompactionResult:
    """segments: number before and after; damaged: names of damaged segments, which were skipped."""

    segments: tuple[int, int]
    damaged: list[str]


@dataclass(frozen=True)
class _LiveRows:
    """Rows and failures of a segment that no later one supersedes.

    rows: (L,) places of the L keys in the file; tokens: (L,); stored: number in the file, superseded included.
    """

    path: Path
    keys: KeyColumn
    rows: np.ndarray
    tokens: np.ndarray
    failures: dict[str, str]
    stored: int

    def __len__(self) -> int:
        return len(self.keys) + len(self.failures)


def compact(store: VectorStore, waiting: Callable[[], None]) -> CompactionResult:
    """Merge the small segments of `store` under its lock; `waiting` is called if another process holds the lock.

    A kill at any moment loses no row. Raises OSError, e.g. when the disk is full, and DamagedSegment.
    """
    with store.locked(waiting):
        before = _count(store)
        _merge_small(store, 1)
        return CompactionResult((before, _count(store)), list(store.damaged))


def merge_small(store: VectorStore, say: Callable[[str], None]) -> None:
    """Merge the small segments of a kind once there are `MANY`; call at the end of a job, under `VectorStore.locked`.

    Segments of half of MOST_ROWS and more are not written again, so that a row is copied a few times at most, however many runs
    add to the store. A kill at any moment loses no row. What prevents it, as a full disk, is said: all rows are there.
    """
    try:
        _merge_small(store, MANY)
    except (OSError, DamagedSegment) as error:
        if isinstance(error, DamagedSegment):
            headers.forget(store.folder)  # so that the next run sees the damage, and makes its rows again
        say(f"{store.folder}: its small segments were not merged ({error})")


def _count(store: VectorStore) -> int:
    return sum(len(store.headers(kind)) for kind in KINDS)


def _merge_small(store: VectorStore, least: int) -> None:
    plan = [(kind, *_plan(store, kind, least)) for kind in KINDS]
    old = [part.path for _, dead, groups in plan for part in [*dead, *(p for group in groups for p in group)]]
    new = [_merge(store.folder, kind, group) for kind, _, groups in plan for group in groups]
    store.replace(old, new)


def _plan(store: VectorStore, kind: str, least: int) -> tuple[list[_LiveRows], list[list[_LiveRows]]]:
    """Segments without live rows, and groups to merge into one segment each; none of fewer than `least` small segments."""
    parts = list(_live_rows(store, kind))
    small = [part for part in parts if len(part) and part.stored < MOST_ROWS // 2]
    # A single segment is rewritten only to drop superseded rows.
    groups = [group for group in _groups(small) if len(group) > 1 or len(group[0]) < group[0].stored]
    return [part for part in parts if not len(part)], groups if len(small) >= least else []


def _live_rows(store: VectorStore, kind: str) -> Iterator[_LiveRows]:
    failing, headers_of = store.failures(kind), store.headers(kind)
    for path, rows in store.held(kind).items():
        header = headers_of[path]
        still = {key: failing[key] for key in header.failed if key in failing}
        stored = len(header.keys) + len(header.failed)
        yield _LiveRows(path, header.keys.take(rows), rows, header.tokens[rows], still, stored)


def _groups(parts: list[_LiveRows]) -> Iterator[list[_LiveRows]]:
    """Consecutive segments, as many as fit into one."""
    group: list[_LiveRows] = []
    for part in parts:
        if sum(map(len, group)) + len(part) > MOST_ROWS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _merge(folder: Path, kind: str, group: list[_LiveRows]) -> Entry:
    """Write one segment of all live rows of `group`; return its manifest entry."""
    keys = KeyColumn(np.concatenate([part.keys.raw for part in group]))
    segment = Segment(
        keys,
        _vectors(group),
        np.concatenate([part.tokens for part in group]),
        {key: reason for part in group for key, reason in part.failures.items()},
    )
    path, digest = write_segment(folder, kind, segment)
    return manifest_entry(path, len(keys), digest)


def _vectors(group: list[_LiveRows]) -> np.ndarray:
    """The live rows, (N, D) float32; besides the result, one segment at a time is in memory."""
    merged = np.empty((0, 0), np.float32)
    filled = 0
    for part in group:
        if not len(part.keys):
            continue
        vectors = read_vectors(part.path)
        if not merged.size:
            merged = np.empty((sum(len(part.keys) for part in group), vectors.shape[1]), np.float32)
        merged[filled : filled + len(part.keys)] = vectors[part.rows]
        filled += len(part.keys)
    return merged
