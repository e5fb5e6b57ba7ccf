"""An HDF5 file as bytes, so that HDF5 itself never meets a full disk (it aborts the process there).

A sealed one carries its own SHA-256 in front, where the format leaves room (the user block; every HDF5 tool reads
the file as usual): one damaged byte is seen before HDF5 meets it, which may end the process there, too.
"""

import hashlib
import io
from collections.abc import Callable

import h5py
import numpy as np

_BLOCK = 512  # the smallest user block


def hdf5_bytes(fill: Callable[[h5py.File], None], seal: bool = False) -> bytes:
    """The bytes of the file that `fill` makes; the same content gives the same bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_BLOCK if seal else 0) as file:
        fill(file)
    return _block(buffer.getvalue()[_BLOCK:]) + buffer.getvalue()[_BLOCK:] if seal else buffer.getvalue()


def seal_is_whole(data: bytes) -> bool:
    """Whether the bytes of a sealed file are the ones that were written. False for a file that was never sealed."""
    return data[:_BLOCK] == _block(memoryview(data)[_BLOCK:])


def _block(data: bytes | memoryview) -> bytes:
    return f"sha256 {hashlib.sha256(data).hexdigest()}\n".encode().ljust(_BLOCK, b"\0")


def put(file: h5py.File, name: str, rows: np.ndarray, chunk_rows: int) -> None:
    """Write `rows` (N, ...) as a dataset with a checksum, in full-width chunks of `chunk_rows`."""
    chunk = (max(1, min(chunk_rows, len(rows))), *(max(1, n) for n in rows.shape[1:]))
    # Nothing grows, but HDF5 takes a chunk larger than an empty dataset only when that might.
    file.create_dataset(name, data=rows, chunks=chunk, maxshape=(None,) * rows.ndim, fletcher32=True)
