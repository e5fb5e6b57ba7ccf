"""The record of a data set's parts: in which fifth each picture stands, kept so that none ever moves.

What the parts are for, and how near-copies come into one, other rooms know.
"""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from cache.files import write_bytes_atomically
from cache.hdf5 import hdf5_bytes, put, seal_is_whole

# A fifth is the share of the memes that MultiOFF's own validation and test splits have.
PARTS = 5
_FORMAT = 1
_CHUNK = 1 << 16


@dataclass
class PartRecord:
    """part and perceptual hash (4,) uint64 of each picture by its key, 64 hex digits; a hash of zeros is none."""

    parts: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, np.ndarray] = field(default_factory=dict)


def part_of(content: str) -> int:
    """The part, 0 to PARTS - 1, that follows from a content alone."""
    return int.from_bytes(hashlib.sha256(content.encode("utf-8", "surrogateescape")).digest()[:8]) % PARTS


def read_parts(path: Path) -> PartRecord:
    """What is on record; nothing where there is no file. A damaged one is moved aside: the parts of most memes follow from
    their content. Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return PartRecord()
    if not seal_is_whole(data):
        path.replace(path.with_suffix(".damaged"))
        return PartRecord()
    with h5py.File(io.BytesIO(data), "r") as file:
        keys = [row.tobytes().hex() for row in file["key"][:]]
        parts, hashes = file["part"][:].tolist(), file["hash"][:]
    return PartRecord(dict(zip(keys, parts)), dict(zip(keys, hashes)))


def write_parts(path: Path, record: PartRecord) -> None:
    """Write the record, in place of the one before. Raises OSError."""
    keys = sorted(record.parts)

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = _FORMAT
        put(file, "key", np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1), _CHUNK)
        put(file, "part", np.array([record.parts[key] for key in keys], np.int8), _CHUNK)
        put(file, "hash", np.array([record.hashes[key] for key in keys], np.uint64).reshape(-1, 4), _CHUNK)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, hdf5_bytes(fill, seal=True))
