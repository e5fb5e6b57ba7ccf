"""The dataset index: a data set's ids, keys, labels and splits, one row per row of its files, as HDF5.

Vectors are not in it and labels are not in the store, so one picture in two data sets is embedded once.
It knows no label's spelling: 1 is offensive, 0 is not, -1 is unlabelled.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from cache.files import write_bytes_atomically
from cache.hdf5 import hdf5_bytes
from cache.spec import Spec

FORMAT = 1


class UnusableIndex(ValueError):
    """No dataset index where one was expected, or one of another format."""


@dataclass(frozen=True)
class DatasetIndex:
    """One row per meme that the data set names, embedded or not; all sequences have N entries.

    ids, splits ("train" | "validation" | "test"), images (path inside the data folder), texts: str;
    image_keys, text_keys: hex digests, "" where there is none; labels: 1 | 0 | -1;
    skipped: "" or why the row has no vectors. source: {"data", "model", "pretrained"} as the user gave them.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[int]
    images: Sequence[str]
    texts: Sequence[str]
    image_keys: Sequence[str]
    text_keys: Sequence[str]
    skipped: Sequence[str]
    spec: Spec
    source: dict[str, str]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of an index have one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.ids)


_COLUMNS = tuple(f.name for f in fields(DatasetIndex) if f.name not in ("spec", "source"))


def index_path(artifacts: Path, data: str, model: str, pretrained: str) -> Path:
    """Where the index of one data folder under one encoder stands.

    Built from what the user types, so that the embedding job and the tuner find the same file without asking
    each other; the hashes keep apart two folders, or two checkpoints, of one name.
    """
    encoder = f"{model}|{absolute_if_file(pretrained)}"
    name = f"{_slug(Path(data).resolve().name)}-{_short(str(Path(data).resolve()))}"
    return Path(artifacts) / "datasets" / f"{name}--{_slug(model)}-{_short(encoder)}.h5"


def absolute_if_file(pretrained: str) -> str:
    """A checkpoint's full path, so that it has one name from every folder; a tag, or nothing, stays as it is."""
    return str(Path(pretrained).resolve()) if pretrained and Path(pretrained).is_file() else pretrained


def find_index(artifacts: Path, data: str, model: str, pretrained: str) -> Path:
    """The index that `data` means: itself when it is an index file (vectors made elsewhere), else by `index_path`.

    Raises UnusableIndex, naming the indexes that there are.
    """
    path = Path(data) if Path(data).suffix == ".h5" else index_path(artifacts, data, model, pretrained)
    if not path.is_file():
        there = ", ".join(sorted(str(other) for other in (Path(artifacts) / "datasets").glob("*.h5"))) or "none"
        raise UnusableIndex(
            f"{path}: no such dataset index; `make embed` with the same DATA, MODEL and PRETRAINED writes it, and DATA "
            f"may be an index itself (there are: {there})"
        )
    return path


def write_index(path: Path, index: DatasetIndex) -> None:
    """Write the index atomically, replacing the one of an earlier run."""
    write_bytes_atomically(path, hdf5_bytes(lambda file: _fill(file, index)))


def read_index(path: Path) -> DatasetIndex:
    """Read an index. Raises UnusableIndex, naming the file and the command that makes it."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["format"] != FORMAT:
                raise UnusableIndex(f"{path}: format {file.attrs['format']}, expected {FORMAT}; run `make embed` again")
            columns = {name: _column(file[name]) for name in _COLUMNS}
            return DatasetIndex(**columns, spec=json.loads(file.attrs["spec"]), source=json.loads(file.attrs["source"]))
    except (OSError, KeyError) as error:
        raise UnusableIndex(f"{path}: not a dataset index ({error}); run `make embed` again") from error


def _fill(file: h5py.File, index: DatasetIndex) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["spec"] = json.dumps(index.spec, sort_keys=True)
    file.attrs["source"] = json.dumps(index.source, sort_keys=True)
    for name in _COLUMNS:
        values = getattr(index, name)
        if name == "labels":
            file.create_dataset(name, data=np.asarray(values, np.int8), fletcher32=True, chunks=(max(1, len(values)),))
        else:
            file.create_dataset(name, data=list(values), dtype=h5py.string_dtype("utf-8"))


def _column(dataset: h5py.Dataset) -> list[str] | list[int]:
    return (dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:]).tolist()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
