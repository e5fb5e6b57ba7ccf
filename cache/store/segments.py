"""Segments: immutable HDF5 files of keys, vectors and failures, named by their SHA-256.

A segment is written to a temporary name, fsynced and renamed, so a kill loses only the one being written. Appending to
one HDF5 file did not survive `kill -9`. Every dataset has fletcher32 checksums.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from cache.files import write_bytes_atomically
from cache.hdf5 import hdf5_bytes, write_dataset
from cache.store.keys import content_key

KINDS = ("image", "text")
# Segments are read whole: chunks of 512 full-width rows measured within 40 % of a contiguous read.
_CHUNK_ROWS = 512
_REASON_BYTES = 200


class DamagedSegment(ValueError):
    """A segment is missing, unreadable or fails its checksum."""


@dataclass(frozen=True)
class Segment:
    """Rows of one kind.

    keys: N hex digests; vectors: (N, D) float32; tokens: (N,) int32 token counts before truncation, zeros for images;
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


def write_segment(folder: Path, kind: str, segment: Segment) -> tuple[Path, str]:
    """Write `segment` under `folder`; return its path and its SHA-256. Raises OSError, e.g. when the disk is full."""
    data = hdf5_bytes(lambda file: _fill(file, segment))
    digest = content_key(data)
    path = folder / f"{kind}-{digest[:20]}.h5"
    write_bytes_atomically(path, data)
    return path, digest


def read_header(path: Path) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """A segment's keys, (N,) token counts and failures, without its vectors. Raises DamagedSegment."""
    with _opened(path) as file:
        reasons = [reason.decode("utf-8", "ignore") for reason in file["failed_reasons"][:]]
        return _hex(file["keys"][:]), file["tokens"][:], dict(zip(_hex(file["failed_keys"][:]), reasons))


def read_vectors(path: Path) -> np.ndarray:
    """A segment's (N, D) float32 vectors. Raises DamagedSegment."""
    with _opened(path) as file:
        return file["vectors"][:]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError) as error:
        raise DamagedSegment(f"{path}: not a readable segment ({error})") from error


def _fill(file: h5py.File, segment: Segment) -> None:
    reasons = np.array([r.encode("utf-8")[:_REASON_BYTES] for r in segment.failures.values()], f"S{_REASON_BYTES}")
    columns = {
        "keys": _raw(segment.keys),
        "vectors": np.asarray(segment.vectors, np.float32),
        "tokens": np.asarray(segment.tokens, np.int32),
        "failed_keys": _raw(list(segment.failures)),
        "failed_reasons": reasons,
    }
    for name, rows in columns.items():
        write_dataset(file, name, rows, _CHUNK_ROWS)


def _raw(keys: Sequence[str]) -> np.ndarray:
    """Hex digests -> (N, 32) uint8."""
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 32)


def _hex(raw: np.ndarray) -> list[str]:
    """(N, 32) uint8 -> hex digests."""
    digits = raw.tobytes().hex()
    return [digits[start : start + 64] for start in range(0, len(digits), 64)]
