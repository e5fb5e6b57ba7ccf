"""Merge small segments of a store, so that a cache of many short runs opens as fast as one long run's.

    python -m cache compact

Vectors, token counts and failures are unchanged, bit for bit. Of a key in several segments, the row that is read stays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cache.store.manifest import Entry, manifest_entry
from cache.store.segments import KINDS, Segment, read_header, read_vectors, write_segment
from cache.store.vector_store import VectorStore

# 65,536 rows of 1024 float32 are 256 MB; three copies are in memory at once.
MOST_ROWS = 65_536


@dataclass(frozen=True)
class CompactionResult:
    """segments: number before and after; damaged: names of damaged segments, which were skipped."""

    segments: tuple[int, int]
    damaged: list[str]


@dataclass(frozen=True)
class _LiveRows:
    """Rows and failures of a segment that no later one supersedes; stored: number in the file, superseded included."""

    path: Path
    keys: list[str]
    rows: list[int]
    tokens: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)
    stored: int = 0

    def __len__(self) -> int:
        return len(self.keys) + len(self.failures)


def compact(store: VectorStore, waiting: Callable[[], None]) -> CompactionResult:
    """Merge the small segments of `store` under its lock; `waiting` is called if another process holds the lock.

    A kill at any moment loses no row. Raises OSError, e.g. when the disk is full, and DamagedSegment.
    """
    with store.locked(waiting):
        before = _count(store)
        plan = [(kind, *_plan(store, kind)) for kind in KINDS]
        old = [part.path for _, dead, groups in plan for part in [*dead, *(p for group in groups for p in group)]]
        new = [_merge(store.folder, kind, group) for kind, _, groups in plan for group in groups]
        store.replace(old, new)
        return CompactionResult((before, _count(store)), list(store.damaged))


def _count(store: VectorStore) -> int:
    return sum(len(store.held(kind)) for kind in KINDS)


def _plan(store: VectorStore, kind: str) -> tuple[list[_LiveRows], list[list[_LiveRows]]]:
    """Segments without live rows, and groups to merge into one segment each."""
    parts = list(_live_rows(store, kind))
    small = [part for part in parts if len(part) and part.stored < MOST_ROWS // 2]
    # A single segment is rewritten only to drop superseded rows.
    groups = [group for group in _groups(small) if len(group) > 1 or len(group[0]) < group[0].stored]
    return [part for part in parts if not len(part)], groups


def _live_rows(store: VectorStore, kind: str) -> Iterator[_LiveRows]:
    failing = store.failures(kind)
    for path, held in store.held(kind).items():
        keys, tokens, failures = read_header(path)
        rows = list(held.values())
        still = {key: failing[key] for key in failures if key in failing}
        yield _LiveRows(path, list(held), rows, tokens[rows], still, len(keys) + len(failures))


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
    keys = [key for part in group for key in part.keys]
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
        if not part.keys:
            continue
        vectors = read_vectors(part.path)
        if not merged.size:
            merged = np.empty((sum(len(part.keys) for part in group), vectors.shape[1]), np.float32)
        merged[filled : filled + len(part.keys)] = vectors[part.rows]
        filled += len(part.keys)
    return merged
