"""Store the part (one of five) of every picture of a data set, so that none ever moves to another.

Splits are carved from parts in `head.data.features`; `embed.data.parts` groups near-duplicates into one part.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from cache.hdf5 import checksum_matches, opened, write_checked, write_dataset

# MultiOFF's own validation and test splits are a fifth of the memes each.
PARTS = 5
_FORMAT = 1
_CHUNK = 1 << 16


@dataclass
class PartRecord:
    """Part and perceptual hash, (4,) uint64, by picture key, 64 hex digits; an all-zero hash means none."""

    parts: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, np.ndarray] = field(default_factory=dict)


def part_of(content: str) -> int:
    """The part, 0 to PARTS - 1, by the SHA-256 of `content`."""
    return int.from_bytes(hashlib.sha256(content.encode("utf-8", "surrogateescape")).digest()[:8]) % PARTS


def read_parts(path: Path) -> PartRecord:
    """Read the record; empty if there is no file. Raises OSError.

    A damaged file is renamed: most parts can be derived from content again.
    """
    try:
        whole = checksum_matches(path)
    except FileNotFoundError:
        return PartRecord()
    if not whole:
        path.replace(path.with_suffix(".damaged"))
        return PartRecord()
    with opened(path) as file:
        keys = [row.tobytes().hex() for row in file["key"][:]]
        parts, hashes = file["part"][:].tolist(), file["hash"][:]
    return PartRecord(dict(zip(keys, parts)), dict(zip(keys, hashes)))


def write_parts(path: Path, record: PartRecord) -> None:
    """Write the record atomically, replacing the old one. Raises OSError."""
    keys = sorted(record.parts)

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = _FORMAT
        write_dataset(file, "key", np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1), _CHUNK)
        write_dataset(file, "part", np.array([record.parts[key] for key in keys], np.int8), _CHUNK)
        write_dataset(file, "hash", np.array([record.hashes[key] for key in keys], np.uint64).reshape(-1, 4), _CHUNK)

    write_checked(path, fill)
