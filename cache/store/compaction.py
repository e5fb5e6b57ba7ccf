"""Merge the small segments of a store, so that a cache of many short runs opens as fast as one of a single run.

    python -m cache compact

Rows, vectors, token counts and failures stay as they were, bit for bit; a key that stands in several segments stays
in the one that it is read from. It does not know what the vectors are for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cache.store.manifest import Entry, manifest_entry
from cache.store.segments import KINDS, Segment, read_header, read_vectors, write_segment
from cache.store.vector_store import VectorStore

# 65,536 rows of 1024 float32 are 256 MB, of which three copies are in memory at once.
MOST_ROWS = 65_536


@dataclass(frozen=True)
class Compacted:
    """segments: their number before and after; damaged: names of the segments that were left alone."""

    segments: tuple[int, int]
    damaged: list[str]


@dataclass(frozen=True)
class _Part:
    """What counts of one segment. stored: rows and failures in the file, repeated ones too."""

    path: Path
    keys: list[str]
    rows: list[int]
    tokens: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)
    stored: int = 0

    def __len__(self) -> int:
        return len(self.keys) + len(self.failures)


def compact(store: VectorStore, waiting: Callable[[], None]) -> Compacted:
    """Merge the small segments of `store` under its lock; `waiting` is called when another process has that.

    A kill at any moment leaves every row. Raises OSError, e.g. when the disk is full, and DamagedSegment.
    """
    with store.locked(waiting):
        before = _count(store)
        plan = [(kind, *_plan(store, kind)) for kind in KINDS]
        old = [part.path for _, useless, groups in plan for part in [*useless, *(p for group in groups for p in group)]]
        new = [_merged(store.folder, kind, group) for kind, _, groups in plan for group in groups]
        store.replace(old, new)
        return Compacted((before, _count(store)), list(store.damaged))


def _count(store: VectorStore) -> int:
    return sum(len(store.held(kind)) for kind in KINDS)


def _plan(store: VectorStore, kind: str) -> tuple[list[_Part], list[list[_Part]]]:
    """Segments of which nothing counts, and groups to be merged into one segment each."""
    parts = list(_parts(store, kind))
    small = [part for part in parts if len(part) and part.stored < MOST_ROWS // 2]
    # One alone is left, unless the merge would rid it of repeated keys.
    groups = [group for group in _groups(small) if len(group) > 1 or len(group[0]) < group[0].stored]
    return [part for part in parts if not len(part)], groups


def _parts(store: VectorStore, kind: str) -> Iterator[_Part]:
    failing = store.failures(kind)
    for path, held in store.held(kind).items():
        keys, tokens, failures = read_header(path)
        rows = list(held.values())
        still = {key: failing[key] for key in failures if key in failing}
        yield _Part(path, list(held), rows, tokens[rows], still, len(keys) + len(failures))


def _groups(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Neighbours, as many as fit into one segment."""
    group: list[_Part] = []
    for part in parts:
        if sum(map(len, group)) + len(part) > MOST_ROWS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _merged(folder: Path, kind: str, group: list[_Part]) -> Entry:
    """Write one segment of all that counts in `group`; return its line for the manifest."""
    keys = [key for part in group for key in part.keys]
    segment = Segment(
        keys,
        _vectors(group),
        np.concatenate([part.tokens for part in group]),
        {key: reason for part in group for key, reason in part.failures.items()},
    )
    path, digest = write_segment(folder, kind, segment)
    return manifest_entry(path, len(keys), digest)


def _vectors(group: list[_Part]) -> np.ndarray:
    """(N, D) float32: the rows that count, one segment in memory at a time beside the result."""
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
