"""The dataset index: a data set's ids, keys, labels and splits, one row per row of its files, as HDF5.

Vectors are not in it and labels are not in the store, so one picture in two data sets is embedded once.
It knows no label's spelling: 1 is offensive, 0 is not, -1 is unlabelled.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.files import write_bytes_atomically
from cache.hdf5 import hdf5_bytes, put, seal_is_whole
from cache.layout import DatasetRequest, Layout
from cache.store.spec import Spec

FORMAT = 3
SPLITS = ("train", "validation", "test")
# A group's name heads a row of a report; a cell that is longer is prose in the wrong column.
_MAX_GROUP = 100
_NO_PARTS = -2
_HDF5 = b"\x89HDF"
_CHUNK_BYTES = 1 << 20  # one dataset is read whole and at once, so few and large chunks
# Texts are bytes and ends: HDF5's own strings carry no checksum and refuse a NUL. Surrogates stand for bytes of file
# names that are no UTF-8.
_ENCODING = ("utf-8", "surrogatepass")


class UnusableIndex(ValueError):
    """No dataset index where one was expected, or one of another format."""


@dataclass(frozen=True)
class DatasetIndex:
    """One row per meme that the data set names, embedded or not; all sequences have N entries.

    ids, splits ("train" | "validation" | "test"), images (path inside the data folder), texts: str;
    image_keys, text_keys: hex digests, "" where there is none; labels: 1 | 0 | -1;
    skipped: "" or why the row has no vectors; text_tokens: the text's tokens before truncation, 0 where there are
    none; text_cut: 1 where the encoder read only the text's beginning, else 0; image_stamps: an opaque hint of the
    embedding job, by which it knows an unchanged picture file, "" where there is none.
    source: {"data", "model", "pretrained", ...} as the user gave them to the job.
    groups: whom a meme is about, as the data say it (see `group_name`), "" where they do not; () is "" for every row.
    parts: from 0 to `cache.index.parts.PARTS` - 1, by content, so that a split can be set aside where the data name none; -1
    where they name all, or a row has no picture; () is -2 for every row, of an index made before there were parts.
    prompts: {"offensive" | "non-offensive": texts} for zero-shot classification, whose vectors are in the store under
    `text_key`, as any text's; {} where there are none, as for vectors made elsewhere.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[int]
    images: Sequence[str]
    texts: Sequence[str]
    image_keys: Sequence[str]
    text_keys: Sequence[str]
    skipped: Sequence[str]
    text_tokens: Sequence[int]
    text_cut: Sequence[int]
    image_stamps: Sequence[str]
    spec: Spec
    source: dict[str, str]
    groups: Sequence[str] = ()
    parts: Sequence[int] = ()
    prompts: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, usual in (("groups", ""), ("parts", _NO_PARTS)):
            if not getattr(self, name):
                object.__setattr__(self, name, [usual] * len(self.ids))
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of an index have one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_parts(self) -> bool:
        """Whether the index was made when there were parts."""
        return _NO_PARTS not in self.parts

    @property
    def hints(self) -> dict[str, tuple[str, str]]:
        """{image: (stamp, key)} of the picture files with a stamp."""
        hints = zip(self.images, self.image_stamps, self.image_keys)
        return {image: (stamp, key) for image, stamp, key in hints if stamp}


_DESCRIPTIONS = ("spec", "source", "prompts")  # of the whole index, as JSON
_COLUMNS = tuple(f.name for f in fields(DatasetIndex) if f.name not in _DESCRIPTIONS)
_NUMBERS = {
    "labels": np.int8,
    "text_tokens": np.int32,
    "text_cut": np.int8,
    "parts": np.int8,
}  # the other columns hold text


def group_name(value: Any) -> str:
    """A table's cell as the name of a meme's group, at most 100 characters; "" for None or an empty list.

    A list, of a meme about several groups, becomes their names in alphabetical order, joined with "+".
    """
    if value is None:
        return ""
    name = "+".join(sorted({str(part).strip() for part in value})) if isinstance(value, list) else str(value)
    return name.strip()[:_MAX_GROUP].rstrip()


def find_index(artifacts: Path, request: DatasetRequest) -> Path:
    """The index that is requested: `data` itself when it is an index file (vectors made elsewhere), else by `Layout.index`.

    Raises UnusableIndex, naming the indexes that there are.
    """
    layout = Layout(artifacts)
    path = Path(request.data) if Path(request.data).suffix == ".h5" else layout.index(request)
    if not path.is_file():
        there = ", ".join(sorted(map(str, layout.datasets.glob("*.h5")))) or "none"
        raise UnusableIndex(
            f"{path}: no such dataset index; `make embed` with the same DATA, MODEL, PRETRAINED, FEATURES and "
            f"LONG_TEXT writes it, and DATA may be an index itself (there are: {there})"
        )
    return path


def write_index(path: Path, index: DatasetIndex) -> None:
    """Write the index atomically, replacing the one of an earlier run."""
    write_bytes_atomically(path, hdf5_bytes(lambda file: _fill(file, index), seal=True))


def read_index(path: Path) -> DatasetIndex:
    """Read an index. Raises UnusableIndex, naming the file and the command that makes it."""
    try:
        data = path.read_bytes()
        # An index of format 1 had no seal, and is to be told from a damaged one.
        if not data.startswith(_HDF5) and not seal_is_whole(data):
            raise UnusableIndex(f"{path}: damaged, or not a dataset index; run `make embed` again")
        with h5py.File(io.BytesIO(data), "r") as file:
            if file.attrs["format"] != FORMAT:
                raise UnusableIndex(f"{path}: format {file.attrs['format']}, expected {FORMAT}; run `make embed` again")
            held: dict[str, Any] = {name: json.loads(file.attrs[name]) for name in _DESCRIPTIONS}
            for name in _COLUMNS:
                if name in file or name != "parts":
                    held[name] = _numbers(file, name) if name in _NUMBERS else _texts(file, name)
            return DatasetIndex(**held)
    except UnusableIndex:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise UnusableIndex(f"{path}: not a dataset index ({error}); run `make embed` again") from error


def _fill(file: h5py.File, index: DatasetIndex) -> None:
    file.attrs["format"] = FORMAT
    for name in _DESCRIPTIONS:
        file.attrs[name] = json.dumps(getattr(index, name), sort_keys=True)
    for name in _COLUMNS:
        values = getattr(index, name)
        if name in _NUMBERS:
            put(file, name, np.asarray(values, _NUMBERS[name]), _CHUNK_BYTES)
        else:
            _put_texts(file, name, values)


def _numbers(file: h5py.File, name: str) -> list[int]:
    return file[name][:].tolist()


def _put_texts(file: h5py.File, name: str, values: Sequence[str]) -> None:
    encoded = [value.encode(*_ENCODING) for value in values]
    put(file, f"{name}/utf8", np.frombuffer(b"".join(encoded), np.uint8), _CHUNK_BYTES)
    put(file, f"{name}/ends", np.cumsum([len(value) for value in encoded], dtype=np.int64), _CHUNK_BYTES // 8)


def _texts(file: h5py.File, name: str) -> list[str]:
    joined, ends = file[f"{name}/utf8"][:].tobytes(), file[f"{name}/ends"][:].tolist()
    return [joined[start:end].decode(*_ENCODING) for start, end in zip([0, *ends], ends)]
