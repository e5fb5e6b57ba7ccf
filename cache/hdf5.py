"""An HDF5 file as bytes, so that HDF5 itself never meets a full disk (it aborts the process there)."""

import io
from collections.abc import Callable

import h5py


def hdf5_bytes(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of the file that `fill` makes; the same content gives the same bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()
