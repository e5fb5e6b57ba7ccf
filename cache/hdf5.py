"""Read HDF5 files, and build them in memory, with an optional SHA-256 in the user block.

The HDF5 library aborts the process on a full disk and may do so on damaged bytes. So it never writes to disk here, and
checksums are verified before it opens a file. Other HDF5 tools ignore the user block. Files are opened by Python: HDF5's own
file locking fails on file systems without locks, and its errors hide those of the system.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cache.files import naming, written_atomically

_BLOCK = 512  # the smallest user block


class Unreadable(ValueError):
    """Bytes that HDF5 cannot read, or without what was asked for."""


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file, to be read in the block. Raises Unreadable, and OSError where the system refuses to open or read it."""
    with naming(path), path.open("rb") as raw:
        try:
            with h5py.File(raw, "r") as file:
                yield file
        except (OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's; HDF5's own have no number
                raise
            raise Unreadable(f"{path}: HDF5 cannot read it ({error})") from error


def hdf5_bytes(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of the file that `fill` writes, deterministic."""
    return _buffer(fill, 0).getvalue()


def write_checked(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """Write the file atomically, with its SHA-256 in the user block; it is in memory once. Raises OSError."""
    with _buffer(fill, _BLOCK).getbuffer() as data, written_atomically(path) as file:
        file.write(_block(data[_BLOCK:]))
        file.write(data[_BLOCK:])


def _buffer(fill: Callable[[h5py.File], None], userblock: int) -> io.BytesIO:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=userblock) as file:
        fill(file)
    return buffer


def checksum_matches(path: Path) -> bool:
    """Whether the user block holds the SHA-256 of the rest. False for a file without a checksum. Raises OSError."""
    with naming(path), path.open("rb") as file:
        return file.read(_BLOCK) == _stated(hashlib.file_digest(file, "sha256").hexdigest())


def _block(data: bytes | memoryview) -> bytes:
    return _stated(hashlib.sha256(data).hexdigest())


def _stated(digest: str) -> bytes:
    return f"sha256 {digest}\n".encode().ljust(_BLOCK, b"\0")


def write_dataset(file: h5py.File, name: str, rows: np.ndarray, chunk_rows: int) -> None:
    """Write `rows` (N, ...) as a dataset with fletcher32 checksums, in full-width chunks of `chunk_rows`."""
    chunk = (max(1, min(chunk_rows, len(rows))), *(max(1, n) for n in rows.shape[1:]))
    # HDF5 accepts a chunk larger than an empty dataset only if the dataset may grow.
    file.create_dataset(name, data=rows, chunks=chunk, maxshape=(None,) * rows.ndim, fletcher32=True)
