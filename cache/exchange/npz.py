"""Exchange files as .npz, written and read array by array, vectors in pieces. Nothing is unpickled."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from cache.exchange import columns
from cache.exchange.columns import UnusableTable
from cache.exchange.vectors import VectorColumn, piece_rows
from cache.files import written_atomically

# Exceptions of numpy and zipfile for damaged bytes.
_DAMAGE = (ValueError, KeyError, EOFError, OSError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays, texts and `VectorColumn`s atomically, as `numpy.savez` does. Raises OSError."""
    with written_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(values, VectorColumn):
                    _write_vectors(member, values)
                else:
                    np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


def read_npz(path: Path, names: Sequence[str], vectors: Sequence[str]) -> dict[str, Any]:
    """The arrays among `names` that exist, as numpy's, those in `vectors` as columns. Raises UnusableTable, OSError."""
    held: dict[str, Any] = {}
    with path.open("rb") as file, _damage_of(path):
        if not zipfile.is_zipfile(file):
            raise ValueError("not a zip archive")
        with np.load(file, allow_pickle=False) as arrays:
            present = [name for name in arrays.files if name in names]
            held |= {name: np.asarray(arrays[name]) for name in present if name not in vectors}
    for name in vectors:
        if name in present:
            held[name] = _vectors(path, name)
    return held


def _write_vectors(member: IO[bytes], column: VectorColumn) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": column.shape}
    np.lib.format.write_array_header_1_0(member, header)
    for piece in column.pieces():
        member.write(np.ascontiguousarray(piece, "<f4").data)


def _vectors(path: Path, name: str) -> VectorColumn:
    with _opened(path, name) as (_, shape, _, dtype):
        return columns.vectors(path, name, shape, dtype, lambda: _pieces(path, name))


def _pieces(path: Path, name: str) -> Iterator[np.ndarray]:
    with _opened(path, name) as (member, shape, by_columns, dtype):
        if by_columns:  # as Fortran does: no row is in one place
            yield np.frombuffer(member.read(), dtype).reshape(shape, order="F")
            return
        for start in range(0, shape[0], piece_rows(shape[0])):
            rows = min(piece_rows(shape[0]), shape[0] - start)
            yield np.frombuffer(member.read(rows * shape[1] * dtype.itemsize), dtype).reshape(rows, shape[1])
        if member.read(1):  # it also has zipfile compare the checksum
            raise ValueError(f"{name}: more bytes than its shape has")


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype]]:
    """An array's bytes, shape, whether it is stored by columns, and its type."""
    with _damage_of(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
        if dtype.hasobject:
            raise ValueError(f"{name}: objects, not numbers")
        yield member, shape, by_columns, dtype


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    try:
        yield
    except UnusableTable:
        raise
    except _DAMAGE as error:
        raise UnusableTable(f"{path}: not a readable .npz of plain arrays ({error})") from error
