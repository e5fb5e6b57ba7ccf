"""Segments: immutable HDF5 files of keys, vectors and failures, named by their SHA-256.

A segment is written to a temporary name, fsynced and renamed, so a kill loses only the one being written. Appending to
one HDF5 file did not survive `kill -9`. Every dataset has fletcher32 checksums. Damage is a missing file or a hash that
differs from the name; a file that cannot be read now is an OSError.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from cache.columns import KeyColumn
from cache.files import naming, write_bytes_atomically
from cache.hdf5 import Unreadable, hdf5_bytes, opened, write_dataset
from cache.store.keys import content_key, file_digest

KINDS = ("image", "text")
# Segments are read whole: chunks of 512 full-width rows measured within 40 % of a contiguous read.
_CHUNK_ROWS = 512
_REASON_BYTES = 200


class DamagedSegment(ValueError):
    """A segment is missing, or its bytes are not those that were written."""


@dataclass(frozen=True)
class Segment:
    """Rows of one kind.

    keys: N of 64 hex digits; vectors: (N, D) float32; tokens: (N,) int32 token counts before truncation, zeros for images;
    failures: {key: why it could not be embedded}. Raises ValueError for other shapes, NaN and infinity.
    """

    keys: Sequence[str]
    vectors: np.ndarray
    tokens: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.keys)
        if self.vectors.ndim != 2 or len(self.vectors) != rows or self.tokens.shape != (rows,):
            raise ValueError(
                f"a segment of {rows} keys needs ({rows}, D) vectors and ({rows},) token counts, "
                f"got {self.vectors.shape} and {self.tokens.shape}"
            )
        if not np.isfinite(self.vectors).all():
            raise ValueError("a segment must not hold NaN or infinite numbers: the encoder is broken")


@dataclass(frozen=True)
class Header:
    """A segment without its vectors. keys: N; tokens: (N,) int32; failed: F keys; reasons: (F,) bytes of UTF-8."""

    keys: KeyColumn
    tokens: np.ndarray
    failed: KeyColumn
    reasons: np.ndarray

    @classmethod
    def of(cls, segment: Segment) -> "Header":
        """The header that `segment` has once it is written."""
        reasons = _reasons([reason.encode("utf-8")[:_REASON_BYTES] for reason in segment.failures.values()])
        tokens = np.asarray(segment.tokens, np.int32)
        return cls(KeyColumn.of(segment.keys), tokens, KeyColumn.of(segment.failures), reasons)

    @property
    def failures(self) -> dict[str, str]:
        """{key: why it could not be embedded}."""
        reasons = (reason.decode("utf-8", "ignore") for reason in self.reasons.tolist())
        return dict(zip(self.failed, reasons, strict=True))


def write_segment(folder: Path, kind: str, segment: Segment) -> tuple[Path, str]:
    """Write `segment` under `folder`; return its path and its SHA-256. Raises OSError, e.g. when the disk is full."""
    data = hdf5_bytes(lambda file: _fill(file, segment))
    digest = content_key(data)
    path = folder / f"{kind}-{digest[:20]}.h5"
    write_bytes_atomically(path, data)
    return path, digest


def check_segment(path: Path) -> str:
    """A segment's SHA-256, after checking it against the file name. Raises DamagedSegment, and OSError, naming the file, where
    it cannot be read."""
    try:
        with naming(path):
            digest = file_digest(path)
    except FileNotFoundError as error:
        raise DamagedSegment(f"{path}: missing") from error
    if digest[:20] != path.stem.split("-")[1]:
        raise DamagedSegment(f"{path}: its bytes have changed since it was written")
    return digest


def read_header(path: Path) -> Header:
    """A segment without its vectors. Raises as `check_segment`."""
    with _opened(path) as file:
        failed = KeyColumn(file["failed_keys"][:])
        reasons = _reasons(file["failed_reasons"][:].tolist())
        return Header(KeyColumn(file["keys"][:]), file["tokens"][:], failed, reasons)


def read_vectors(path: Path, first: int = 0, stop: int | None = None) -> np.ndarray:
    """A segment's (N, D) float32 vectors, of rows `first` to before `stop`. Raises as `check_segment`."""
    with _opened(path) as file:
        return file["vectors"][first:stop]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with opened(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DamagedSegment(f"{path}: missing") from error
    except Unreadable as error:
        check_segment(path)
        raise OSError(errno.EIO, f"its bytes are as they were written, but {error}", str(path)) from error


def _reasons(reasons: list[bytes]) -> np.ndarray:
    return np.array(reasons, f"S{_REASON_BYTES}")


def _fill(file: h5py.File, segment: Segment) -> None:
    header = Header.of(segment)
    columns: dict[str, np.ndarray] = {
        "keys": header.keys.raw,
        "vectors": np.asarray(segment.vectors, np.float32),
        "tokens": header.tokens,
        "failed_keys": header.failed.raw,
        "failed_reasons": header.reasons,
    }
    for name, rows in columns.items():
        write_dataset(file, name, rows, _CHUNK_ROWS)
