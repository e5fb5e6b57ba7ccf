"""Features: vectors, labels and splits as arrays, read from the cache that `make embed` writes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import SPLITS, DatasetIndex, KeyColumn, TextColumn, VectorStore, spec_id, text_key
from head.data.duplicates import duplicate_groups
from head.data.folds import carve, check_labels, check_split


@dataclass(frozen=True, eq=False)
class Features:
    """Memes as arrays. Raises ValueError for inconsistent shapes, NaN or infinite numbers.

    ids: (N,) str; image: (N, Di) float32; text: (N, Dt) float32; label: (N,) int64, 1 is offensive, 0 is not;
    split: (N,) str, each of SPLITS; copies: (N,) int64, equal for near-duplicates; subgroup: (N,) str, "" for none.
    joint: number of last columns of either side that lie in a shared space, 0 if there is none.
    """

    ids: np.ndarray
    image: np.ndarray
    text: np.ndarray
    label: np.ndarray
    split: np.ndarray
    copies: np.ndarray
    subgroup: np.ndarray
    joint: int = 0

    def __post_init__(self) -> None:
        rows = len(self.ids)
        for side, vectors in (("image", self.image), ("text", self.text)):
            if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
                raise ValueError(f"{side}: expected ({rows}, D) vectors, one per meme, got {vectors.shape}")
            _require_finite(self.ids, side, vectors)
        if self.label.shape != (rows,) or not np.isin(self.label, (0, 1)).all():
            raise ValueError(f"label: expected {rows} values of 0 or 1, got {np.unique(self.label)} {self.label.shape}")
        if self.split.shape != (rows,) or not np.isin(self.split, SPLITS).all():
            raise ValueError(f"split: expected {rows} values of {SPLITS}, got {np.unique(self.split)}")
        for name in ("copies", "subgroup"):
            if getattr(self, name).shape != (rows,):
                raise ValueError(f"{name}: expected {rows} values, got {getattr(self, name).shape}")
        if not 0 <= self.joint <= min(self.image.shape[1], self.text.shape[1]):
            raise ValueError(f"joint: expected 0 to the width of the narrower side, got {self.joint}")

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, *splits: str) -> "Features":
        """The memes of these splits, in order."""
        return self.at(np.flatnonzero(np.isin(self.split, splits)))

    def at(self, rows: np.ndarray) -> "Features":
        """The memes of these rows."""
        arrays = {name: values[rows] for name, values in vars(self).items() if name != "joint"}
        return Features(**arrays, joint=self.joint)


def load_tuning(index: DatasetIndex, vectors: Path, official: bool, seed: int) -> Features:
    """The memes that may be tuned on: labelled, with vectors, and not of test, whose vectors are not read.

    If the data set has neither validation nor test, a fifth of its memes is test; for the official protocol another fifth is
    validation, if there is none. Those are parts of the index, which follow from the memes' content; in old indexes without
    parts, from the vectors and the seed. Raises MissingVectors, DamagedSegment, SpecMismatch; ValueError if no meme is
    usable, all vectors are equal, or a split has one label.
    """
    return _load(index, vectors, official, seed, with_test=False).only("train", "validation")


def load_everything(index: DatasetIndex, vectors: Path, official: bool, seed: int) -> Features:
    """As `load_tuning`, with the memes of test."""
    return _load(index, vectors, official, seed, with_test=True)


def joint_columns(spec: dict, image_dim: int, text_dim: int) -> int:
    """Number of last columns of either side that lie in CLIP's shared space: all of projected features, and of imported ones
    with sides of equal width; none of pooled ones."""
    if spec.get("feature") == "both":
        return spec["joint"]
    return image_dim if image_dim == text_dim and spec.get("feature") != "pooled" else 0


def prompt_vectors(index: DatasetIndex, vectors: Path) -> dict[str, np.ndarray]:
    """{label: (P, D) float32} text vectors of the index's prompts; {} if it has none."""
    store = VectorStore(vectors, index.spec)
    return {label: store.read("text", [text_key(text) for text in texts]) for label, texts in index.prompts.items()}


def usable_rows(index: DatasetIndex) -> np.ndarray:
    """(N,) int64: the rows of the index with vectors and a label, in order."""
    embedded = TextColumn.of(index.skipped).lengths == 0
    return np.flatnonzero(embedded & np.isin(np.asarray(index.labels), (0, 1)))


def fingerprint(features: Features, spec: dict) -> str:
    """SHA-256 of ids, labels, splits, copies, vectors and feature spec, 64 hex digits."""
    digest = hashlib.sha256(spec_id(spec).encode())
    for names in (features.ids, features.split):
        digest.update(repr(names.tolist()).encode())
    # the partition into groups, independent of the groups' numbers
    copies = np.unique(features.copies, return_inverse=True)[1]
    for array in (features.label, copies, features.image, features.text):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _load(index: DatasetIndex, vectors: Path, official: bool, seed: int, with_test: bool) -> Features:
    rows = usable_rows(index)
    split = np.array(index.splits)[rows].astype("U10")  # the longest name of SPLITS
    label = np.array(index.labels, np.int64)[rows]
    wanted = _missing_splits(index, official)
    if index.has_parts:
        split, wanted = _assign_parts(split, np.array(index.parts)[rows], label, wanted), []
    if not with_test:
        rows, split = rows[split != "test"], split[split != "test"]
    if not len(rows):
        raise ValueError(f"none of the data set's {len(index)} rows has a label, vectors and a split to be tuned on")
    store = VectorStore(vectors, index.spec)
    keys = {"image": KeyColumn.of(index.image_keys).take(rows), "text": KeyColumn.of(index.text_keys).take(rows)}
    found = {side: store.read(side, of) for side, of in keys.items()}
    ids = np.array(index.ids)[rows]
    for side, values in found.items():
        _require_finite(ids, side, values)
    _require_different(found)
    copies = duplicate_groups(found["image"], found["text"], keys["image"], keys["text"])
    label = np.array(index.labels, np.int64)[rows]
    split = carve(label, copies, split, wanted, seed)
    joint = joint_columns(index.spec, found["image"].shape[1], found["text"].shape[1])
    return Features(ids, found["image"], found["text"], label, split, copies, np.array(index.groups)[rows], joint)


def _missing_splits(index: DatasetIndex, official: bool) -> list[str]:
    wanted = [] if {"validation", "test"} & set(index.splits) else ["test"]
    return wanted + ["validation"] * (official and "validation" not in index.splits)


def _assign_parts(split: np.ndarray, part: np.ndarray, label: np.ndarray, wanted: list[str]) -> np.ndarray:
    """The splits, with the wanted ones taken from train by the index's parts. Raises ValueError where one is too small."""
    train = split == "train"
    if wanted:
        check_split(label[train], "train")
    for number, name in enumerate(("test", "validation")):
        if name in wanted:
            split[train & (part == number)] = name
            check_labels(label[split == name], f"{name}, held out by the memes' content")
    return split


def _require_finite(ids: np.ndarray, side: str, vectors: np.ndarray) -> None:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{side}: the vectors of {bad.sum()} of {len(ids)} memes hold NaN or infinite numbers, the first that of "
            f"{ids[bad][0]!r}; `python -m cache verify` finds damage, and `make embed` recomputes vectors"
        )


def _require_different(vectors: dict[str, np.ndarray]) -> None:
    if all(np.ptp(values, axis=0).max() == 0 for values in vectors.values()):
        raise ValueError(
            f"all {len(vectors['image'])} memes have the same vectors, so nothing can be learnt from them; check that "
            "the pictures differ (`make audit`) and that the encoder is trained"
        )
