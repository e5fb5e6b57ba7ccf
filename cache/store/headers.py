"""Remember what the segments of a store hold, so that opening it reads and hashes only changed ones.

    headers.h5   of each segment: name, stamp, SHA-256, keys, token counts, failures

The file may be lost, damaged or removed at any time: then all segments are hashed and read. It is believed of a segment only
while that has the stamp under which it was hashed.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from cache.columns import KeyColumn
from cache.hdf5 import Unreadable, checksum_matches, opened, write_checked, write_dataset
from cache.store.segments import Header

FILE = "headers.h5"
_CHUNK_ROWS = 1 << 15


@dataclass(frozen=True)
class KnownSegment:
    """An intact segment: its path, its stamp when it was hashed (see `cache.files.file_stamp`), its SHA-256, its header."""

    path: Path
    stamp: list[int]
    digest: str
    header: Header


@dataclass(frozen=True)
class _Table:
    """The file's arrays, S segments of N rows and F failures in all."""

    names: np.ndarray  # (S,) ASCII
    stamps: np.ndarray  # (S, 4) int64
    digests: np.ndarray  # (S, 32) uint8
    rows: np.ndarray  # (S,) int64
    failures: np.ndarray  # (S,) int64
    keys: np.ndarray  # (N, 32) uint8
    tokens: np.ndarray  # (N,) int32
    failed: np.ndarray  # (F, 32) uint8
    reasons: np.ndarray  # (F,) bytes


def remember(folder: Path, segments: Sequence[KnownSegment]) -> None:
    """Replace the file; call under the store's lock. Where the disk is full, the next opening is slower."""
    headers = [segment.header for segment in segments]
    table = _Table(
        np.array([segment.path.name.encode() for segment in segments]),
        np.array([segment.stamp for segment in segments], np.int64),
        KeyColumn.of(segment.digest for segment in segments).raw,
        np.array([len(header.keys) for header in headers], np.int64),
        np.array([len(header.failed) for header in headers], np.int64),
        np.concatenate([header.keys.raw for header in headers]),
        np.concatenate([header.tokens for header in headers]),
        np.concatenate([header.failed.raw for header in headers]),
        np.concatenate([header.reasons for header in headers]),
    )

    def fill(file: h5py.File) -> None:
        for name, rows in vars(table).items():
            write_dataset(file, name, rows, _CHUNK_ROWS)

    with suppress(OSError):
        write_checked(folder / FILE, fill)


def forget(folder: Path) -> None:
    """Remove the file, where this process may, so that the next opening hashes every segment."""
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


def remembered(folder: Path) -> dict[str, KnownSegment]:
    """{name: segment}; empty without a readable file. Raises nothing."""
    try:
        if not checksum_matches(folder / FILE):
            return {}
        with opened(folder / FILE) as file:
            table = _Table(*(file[field.name][:] for field in fields(_Table)))
    except (OSError, Unreadable):
        return {}
    return {segment.path.name: segment for segment in _segments(folder, table)}


def _segments(folder: Path, table: _Table) -> Iterator[KnownSegment]:
    row = failure = 0
    digests, stamps = KeyColumn(table.digests), table.stamps.tolist()
    for at, (rows, failures) in enumerate(zip(table.rows.tolist(), table.failures.tolist(), strict=True)):
        mine, lost = slice(row, row + rows), slice(failure, failure + failures)
        failed = KeyColumn(table.failed[lost])
        header = Header(KeyColumn(table.keys[mine]), table.tokens[mine], failed, table.reasons[lost])
        yield KnownSegment(folder / table.names[at].decode(), stamps[at], digests[at], header)
        row, failure = row + rows, failure + failures
