"""Features: vectors, labels and splits as arrays, read through the cache room.

It does not know which encoder made the vectors or what the pictures show. The index and the vectors come from the
embedding job (`make embed`); `python -m head tune` is what reads them here.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from cache import SPLITS, DatasetIndex, VectorStore, read_index, spec_id, text_key

# Five folds: a carved split is 20 % of the memes, the share that MultiOFF's own validation and test splits have.
_FOLDS = 5
# Fewer memes than this in train or validation give neither a head nor a choice between heads.
_FEWEST = 8


@dataclass(frozen=True, eq=False)
class Features:
    """Memes as arrays. Raises ValueError for shapes that do not fit each other, NaN or infinite numbers.

    ids: (N,) str; image: (N, Di) float32; text: (N, Dt) float32; label: (N,) int64, 1 is offensive, 0 is not;
    split: (N,) str, each of SPLITS.
    """

    ids: np.ndarray
    image: np.ndarray
    text: np.ndarray
    label: np.ndarray
    split: np.ndarray

    def __post_init__(self) -> None:
        rows = len(self.ids)
        for side, vectors in (("image", self.image), ("text", self.text)):
            if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
                raise ValueError(f"{side}: expected ({rows}, D) vectors, one per meme, got {vectors.shape}")
            if not np.isfinite(vectors).all():
                raise ValueError(f"{side}: the vectors hold NaN or infinite numbers; run the embedding job again")
        if self.label.shape != (rows,) or not np.isin(self.label, (0, 1)).all():
            raise ValueError(f"label: expected {rows} values of 0 or 1, got {np.unique(self.label)} {self.label.shape}")
        if self.split.shape != (rows,) or not np.isin(self.split, SPLITS).all():
            raise ValueError(f"split: expected {rows} values of {SPLITS}, got {np.unique(self.split)}")

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, *splits: str) -> "Features":
        """The memes of the named splits, in their order."""
        kept = np.isin(self.split, splits)
        return Features(self.ids[kept], self.image[kept], self.text[kept], self.label[kept], self.split[kept])


def load_features(index_file: Path, vectors: Path) -> tuple[Features, DatasetIndex]:
    """Labelled memes that have vectors, in the order of the index, and the index itself.

    Rows that the embedding job skipped and unlabelled rows are left out; `usable_rows` names those that stay.
    Raises UnusableIndex, MissingVectors, DamagedSegment, SpecMismatch, and ValueError when no row is usable.
    """
    index = read_index(index_file)
    rows = usable_rows(index)
    if not len(rows):
        raise ValueError(f"{index_file}: none of its {len(index)} rows has both a label and vectors")
    store = VectorStore(vectors, index.spec)
    features = Features(
        ids=np.array(index.ids)[rows],
        image=store.read("image", [index.image_keys[row] for row in rows]),
        text=store.read("text", [index.text_keys[row] for row in rows]),
        label=np.array(index.labels, np.int64)[rows],
        split=np.array(index.splits)[rows],
    )
    return features, index


def usable_rows(index: DatasetIndex) -> np.ndarray:
    """(N,) int64: the rows of the index that have vectors and a label."""
    return np.array([row for row in range(len(index)) if not index.skipped[row] and index.labels[row] in (0, 1)], int)


def content_groups(index: DatasetIndex) -> np.ndarray:
    """(N,) int64, one per usable row: memes that share a picture or a text, directly or through others, share a number.

    The empty text joins nothing: memes without text are not copies of each other.
    """
    rows = usable_rows(index)
    parent = list(range(len(rows)))
    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows):
        for key in (("image", index.image_keys[row]), ("text", index.text_keys[row])):
            if key[1] not in ("", text_key("")):
                parent[_root(parent, place)] = _root(parent, first.setdefault(key, place))
    return np.array([_root(parent, place) for place in range(len(rows))], np.int64)


def with_splits(features: Features, groups: np.ndarray, seed: int) -> Features:
    """The same memes with a train and a validation split, ready for training; groups: (N,) int64.

    Without a validation split, a fifth of train becomes one; without validation and test, a fifth each. A group stays
    on one side. Data with validation and no test is left as it is. Raises ValueError where a split is too small or
    has one class only.
    """
    present = set(features.split)
    wanted = [] if "validation" in present else ["validation"] if "test" in present else ["validation", "test"]
    split = features.split.astype("U10")  # the longest name of SPLITS
    train = np.flatnonzero(split == "train")
    if wanted:
        _check_carvable(features.label[train], groups[train])
        folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
        parts = folds.split(train, features.label[train], groups[train])
        for name, (_, rows) in zip(wanted, parts):
            split[train[rows]] = name
    carved = replace(features, split=split)
    check_trainable(carved)
    return carved


def check_trainable(features: Features) -> None:
    """Raise ValueError unless train and validation have enough memes, and both classes."""
    for name in ("train", "validation"):
        _check_split(features.only(name).label, name)


def fingerprint(features: Features, spec: dict) -> str:
    """SHA-256 over ids, labels, splits, vectors and feature spec: equal for equal data, 64 hex digits."""
    digest = hashlib.sha256(spec_id(spec).encode())
    for names in (features.ids, features.split):
        digest.update(repr(names.tolist()).encode())
    for array in (features.label, features.image, features.text):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]  # halve the path, so that long chains stay cheap
        place = parent[place]
    return place


def _check_carvable(label: np.ndarray, groups: np.ndarray) -> None:
    _check_split(label, "train")
    fewest, parts = min(np.bincount(label, minlength=2)), len(np.unique(groups))
    if min(fewest, parts) < _FOLDS:
        raise ValueError(
            f"split train: {fewest} memes of the rarer label, and {parts} groups that share no picture or text; at least "
            f"{_FOLDS} of each are needed to carve a validation split. Add memes, or say the splits in the data"
        )


def _check_split(label: np.ndarray, name: str) -> None:
    counts = np.bincount(label, minlength=2)
    if counts.sum() < _FEWEST:
        raise ValueError(f"split {name}: {counts.sum()} labelled memes with vectors, at least {_FEWEST} are needed")
    if not counts.all():
        raise ValueError(f"split {name}: all {counts.sum()} memes have one label; both labels are needed")
