"""The dataset index: ids, keys, labels and splits of a data set as one HDF5 file, one row per meme.

It holds no vectors, and the store holds no labels, so a picture in two data sets is embedded once.
Labels are 1 (offensive), 0 (not offensive) and -1 (unlabelled).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.columns import Column, KeyColumn, NumberColumn, TextColumn
from cache.demo import model_advice
from cache.hdf5 import Unreadable, checksum_matches, opened, write_checked, write_dataset
from cache.layout import FEATURES, LONG_TEXTS, DatasetRequest, Layout
from cache.store.spec import Spec

FORMAT = 3
SPLITS = ("train", "validation", "test")
# A group's name labels a row of the report; a longer cell is prose in the wrong column.
_MAX_GROUP = 100
_NO_PARTS = -2
_USUAL = (FEATURES[0], LONG_TEXTS[0])
_HDF5 = b"\x89HDF"
_CHUNK_BYTES = 1 << 20  # datasets are always read whole, so few and large chunks


class UnusableIndex(ValueError):
    """The dataset index is missing, damaged or of another format."""


@dataclass(frozen=True)
class DatasetIndex:
    """One row per meme of the data set, embedded or not; all sequences have N entries, and become columns (`cache.columns`).

    ids, splits ("train" | "validation" | "test"), images (path inside the data folder), texts: str;
    image_keys, text_keys: hex digests, "" where there is none; labels: 1 | 0 | -1;
    skipped: "" or why the row has no vectors; text_tokens: token count before truncation, 0 for imported vectors;
    text_cut: 1 if the encoder truncated the text, else 0; image_stamps: opaque file stamps by which the embedding job
    recognises unchanged pictures, "" where there is none.
    source: {"data", "model", "pretrained", ...} as the user gave them to the job.
    groups: target group of a meme as the data name it (see `group_name`), "" where unknown; () means "" for every row.
    agreements: share of a meme's annotators who gave its label, 1 for a single label; () means 1 for every row.
    parts: 0 to `cache.index.parts.PARTS` - 1, derived from content, to carve out missing splits; -1 where the data have
    all splits, or a row has no picture; () means -2 for every row, as in an index older than parts.
    prompts: {"offensive" | "non-offensive": texts} for zero-shot classification, whose vectors are in the store under
    their `text_key`; {} for imported vectors without prompts.

    Raises ValueError where the columns differ in length, and for what is no key.
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
    agreements: Sequence[float] = ()
    prompts: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, usual in (("groups", ""), ("parts", _NO_PARTS), ("agreements", 1.0)):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, [usual] * len(self.ids))
        for name in _COLUMNS:
            object.__setattr__(self, name, _column(name, getattr(self, name)))
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all columns of an index must have one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_parts(self) -> bool:
        """Whether the index has parts; older ones do not."""
        return not (np.asarray(self.parts) == _NO_PARTS).any()


_DESCRIPTIONS = ("spec", "source", "prompts")  # stored as JSON attributes of the file
_COLUMNS = tuple(f.name for f in fields(DatasetIndex) if f.name not in _DESCRIPTIONS)
_NUMBERS = {
    "labels": np.int8,
    "text_tokens": np.int32,
    "text_cut": np.int8,
    "parts": np.int8,
    "agreements": np.float32,
}
_KEYS = ("image_keys", "text_keys")  # the other columns hold text
_LATER = ("parts", "agreements")  # absent in older files


def group_name(value: Any) -> str:
    """A table's cell as a group name of at most 100 characters; "" for None or an empty list.

    A list of several groups becomes their sorted names joined with "+".
    """
    if value is None:
        return ""
    name = "+".join(sorted({str(part).strip() for part in value})) if isinstance(value, list) else str(value)
    return name.strip()[:_MAX_GROUP].rstrip()


def find_index(artifacts: Path, request: DatasetRequest) -> Path:
    """The path of the requested index: `data` itself if it is an index file, else `Layout.index`; without a model, the only
    index of the data.

    Raises UnusableIndex, naming the existing indexes.
    """
    layout = Layout(artifacts)
    is_file = Path(request.data).suffix == ".h5"
    if not is_file and not request.model:
        return _only_index(layout, request)
    path = Path(request.data) if is_file else layout.index(request)
    if not path.is_file():
        existing = ", ".join(sorted(map(str, layout.datasets.glob("*.h5")))) or "none"
        raise UnusableIndex(
            f"{path}: no such dataset index; `make embed` with the same DATA, MODEL, PRETRAINED, FEATURES and "
            f"LONG_TEXT writes it, or give an index file as DATA (existing: {existing})"
        )
    return path


def _only_index(layout: Layout, request: DatasetRequest) -> Path:
    if request.pretrained:
        raise UnusableIndex(f"PRETRAINED={request.pretrained} (--pretrained) was given without its MODEL (--model)")
    found = layout.indexes(request)
    if not found:
        raise UnusableIndex(f"{request.data}: it was not embedded yet; {model_advice(request.data)}")
    if len(found) > 1:
        choices = "; or ".join(_variables(read_index(path)) for path in found)
        raise UnusableIndex(f"{request.data}: it was embedded with {len(found)} models; say which: {choices}")
    return found[0]


def _variables(index: DatasetIndex) -> str:
    """The variables of make that name an index."""
    source = index.source
    values = {"MODEL": source["model"], "PRETRAINED": source["pretrained"]}
    values |= {name.upper(): source.get(name, "") for name in ("features", "long_text")}
    return " ".join(f"{name}={value}" for name, value in values.items() if value not in ("", *_USUAL))


def write_index(path: Path, index: DatasetIndex) -> None:
    """Write the index atomically, replacing that of an earlier run. Raises OSError."""
    write_checked(path, lambda file: _fill(file, index))


def read_index(path: Path) -> DatasetIndex:
    """Read an index. Raises UnusableIndex, naming the file and the command that writes it."""
    try:
        if not checksum_matches(path) and not _unchecked(path):
            raise UnusableIndex(f"{path}: damaged, or not a dataset index; run `make embed` again")
        with opened(path) as file:
            if file.attrs["format"] != FORMAT:
                raise UnusableIndex(f"{path}: format {file.attrs['format']}, expected {FORMAT}; run `make embed` again")
            held: dict[str, Any] = {name: json.loads(file.attrs[name]) for name in _DESCRIPTIONS}
            held |= {name: _get(file, name) for name in _COLUMNS if name in file or name not in _LATER}
            return DatasetIndex(**held)
    except UnusableIndex:
        raise
    except (FileNotFoundError, Unreadable, ValueError) as error:
        raise UnusableIndex(f"{path}: not a dataset index ({error}); run `make embed` again") from error


def _unchecked(path: Path) -> bool:
    """Whether it is of format 1, which had no checksum: it is reported as an old one."""
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _column(name: str, values: Sequence[Any]) -> Column[Any]:
    if name in _NUMBERS:
        return values if isinstance(values, NumberColumn) else NumberColumn(np.asarray(values, _NUMBERS[name]))
    return KeyColumn.of(values) if name in _KEYS else TextColumn.of(values)


def _fill(file: h5py.File, index: DatasetIndex) -> None:
    file.attrs["format"] = FORMAT
    for name in _DESCRIPTIONS:
        file.attrs[name] = json.dumps(getattr(index, name), sort_keys=True)
    for name in _COLUMNS:
        values = getattr(index, name)
        if name in _NUMBERS:
            write_dataset(file, name, np.asarray(values, _NUMBERS[name]), _CHUNK_BYTES)
        else:
            _put_texts(file, name, values.digits() if name in _KEYS else values)


def _get(file: h5py.File, name: str) -> Column[Any]:
    if name in _NUMBERS:
        return NumberColumn(file[name][:])
    # HDF5's variable-length strings have no checksum and no NUL
    texts = TextColumn(file[f"{name}/utf8"][:], file[f"{name}/ends"][:])
    return KeyColumn.of_digits(texts) if name in _KEYS else texts


def _put_texts(file: h5py.File, name: str, texts: TextColumn) -> None:
    write_dataset(file, f"{name}/utf8", texts.utf8, _CHUNK_BYTES)
    write_dataset(file, f"{name}/ends", texts.ends.astype(np.int64), _CHUNK_BYTES // 8)
