"""Folds for cross-validation, parts for cross-fitting, and splits that a data set lacks.

Groups of near-duplicates are never divided between folds, so that held-out memes have no duplicate among train memes.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

PROTOCOLS = ("kfold", "official")
Members = Sequence[tuple[np.ndarray, np.ndarray]]
"""(train rows, held-out rows) of each member; held-out rows decide when it stops."""

# Five folds: a carved split is 20 % of the memes, the share that MultiOFF's own validation and test splits have.
_CARVED_FOLDS = 5
# Number of parts for cross-fitting: the default number of folds.
_PARTS = 5
# Cross-fitted memes that are enough: a threshold or a share of so many is known to .01.
_ENOUGH = 4000
# Least memes in a split that is trained or evaluated on.
_FEWEST = 8
_LABELS = ("not offensive", "offensive")


@dataclass(frozen=True)
class Protocol:
    """How heads are compared. Raises ValueError for an unknown name or counts out of range.

    kfold: train and validation together in `folds` folds, `repeats` times; official: heads are trained on train and compared
    on validation, `repeats` times, and `folds` is ignored.
    """

    name: str = "kfold"
    folds: int = 5
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f"protocol: expected one of {PROTOCOLS}, got {self.name!r}")
        if not 2 <= self.folds <= 20:
            raise ValueError(f"folds: expected 2 to 20, got {self.folds}")
        if not 1 <= self.repeats <= 20:
            raise ValueError(f"repeats: expected 1 to 20, got {self.repeats}")


def assign_folds(label: np.ndarray, groups: np.ndarray, split: np.ndarray, protocol: Protocol, seed: int) -> np.ndarray:
    """(R, N) int64: the fold that holds a meme out in each of R repeats, -1 if always in train. Deterministic in the seed.

    label: (N,) of 0 or 1; groups: (N,) int64, equal for near-duplicates; split: (N,) of "train" or "validation". Raises
    ValueError where a fold would lack a label.
    """
    if not np.isin(split, ("train", "validation")).all():
        raise ValueError(f"split: expected only train and validation, got {sorted(set(split.tolist()))}")
    if protocol.name == "official":
        held = split == "validation"
        for name, part in (("train", ~held), ("validation", held)):
            check_labels(label[part], name)
        return np.tile(np.where(held, 0, -1), (protocol.repeats, 1))
    rows = [_deal(label, groups, protocol.folds, (seed, repeat)) for repeat in range(protocol.repeats)]
    for row in rows:
        _check_folds(label, groups, row, protocol.folds)
    return np.stack(rows)


def members(folds: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train rows, held-out rows), int64, of every fold of the first repeat, then of the second, ..."""
    return [
        (np.flatnonzero(row != fold), np.flatnonzero(row == fold)) for row in folds for fold in range(row.max() + 1)
    ]


def parts(label: np.ndarray, groups: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """(N,) int64: the part of each meme for cross-fitting, where each part is scored by a fit without it; -1 for memes in none.

    folds: (R, N), of `assign_folds`. A part is one fold of the first repeat, or several of many; in the official protocol a
    fifth of validation. Each part costs a fit, so parts beyond _ENOUGH memes are dropped. Raises ValueError if validation
    has a single group of a label.
    """
    held = folds[0] >= 0
    part = np.where(held, folds[0] % _PARTS, -1)
    if folds[0].max() == 0:
        count = min(_PARTS, *(len(np.unique(groups[held & (label == value)])) for value in (0, 1)))
        if count < 2:
            raise ValueError("split validation: at least 2 memes of each label, in different groups, are needed")
        part[held] = _deal(label[held], groups[held], count, (seed,))
    enough = 1 + int(np.searchsorted(np.cumsum(np.bincount(part[held])), _ENOUGH))
    return np.where(part < enough, part, -1)


def refold(label: np.ndarray, groups: np.ndarray, split: np.ndarray, protocol: Protocol, seed: int) -> np.ndarray:
    """`assign_folds` of the memes without a part, with fewer folds if a label is too rare. Raises ValueError for fewer than 2."""
    for count in range(protocol.folds, 2, -1):
        with suppress(ValueError):
            return assign_folds(label, groups, split, replace(protocol, folds=count), seed)
    return assign_folds(label, groups, split, replace(protocol, folds=2), seed)


def carve(label: np.ndarray, groups: np.ndarray, split: np.ndarray, wanted: Sequence[str], seed: int) -> np.ndarray:
    """The split (N,) str, with a random fifth of train renamed for each wanted name, "validation" or "test".

    For indexes without parts, on which old bundles rest. Groups stay whole, prevalence is preserved. Raises ValueError
    where train is too small.
    """
    carved = split.astype("U10")  # the longest name of a split
    train = np.flatnonzero(carved == "train")
    if wanted:
        _check_carvable(label[train], groups[train])
        folds = _deal(label[train], groups[train], _CARVED_FOLDS, (seed,))
        for fold, name in enumerate(wanted):
            carved[train[folds == fold]] = name
    return carved


def check_split(label: np.ndarray, name: str) -> None:
    """Raise ValueError unless a split has enough memes and both labels; label: (N,)."""
    if len(label) < _FEWEST:
        raise ValueError(f"split {name}: {len(label)} labelled memes with vectors, at least {_FEWEST} are needed")
    check_labels(label, name)


def _deal(label: np.ndarray, groups: np.ndarray, folds: int, seed: tuple[int, ...]) -> np.ndarray:
    """(N,) int64: the fold of each meme; groups whole, labels and sizes balanced.

    Greedy, as scikit-learn's StratifiedGroupKFold: in random order, large groups first, each group goes to the fold with the
    least weight of its labels. For 100,000 memes it takes 0.3 s per repeat, scikit-learn's about 13 s.
    """
    _, number = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(number, label == value) for value in (0, 1)], axis=1)  # (G, 2)
    # inverse label frequency
    weight = counts / np.maximum(1, counts.sum(axis=0))
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    dealt, fold_of = [[0.0, 0.0] for _ in range(folds)], np.empty(len(counts), np.int64)
    for group, (none, some), (light, heavy) in zip(order.tolist(), counts[order].tolist(), weight[order].tolist()):
        loads = [(zero * light + one * heavy, zero + one) for zero, one in dealt]
        fold = loads.index(min(loads))
        dealt[fold] = [dealt[fold][0] + none, dealt[fold][1] + some]
        fold_of[group] = fold
    return fold_of[number]


def _check_folds(label: np.ndarray, groups: np.ndarray, row: np.ndarray, folds: int) -> None:
    """Raise ValueError unless each fold holds both labels."""
    groups_of = [len(np.unique(groups[label == value])) for value in (0, 1)]
    lacking = [value for value in (0, 1) if len(np.unique(row[label == value])) < folds]
    if lacking:
        value = min(lacking, key=groups_of.__getitem__)
        count, fewer = np.sum(label == value), min(*groups_of, folds - 1)
        grouped = f" in {groups_of[value]} group{'s' * (groups_of[value] > 1)}" if groups_of[value] < count else ""
        raise ValueError(
            f"{folds} folds need at least {folds} memes of each label in different groups; there are {count} "
            f"{_LABELS[value]}{grouped}: add memes{f', or FOLDS={fewer}' if fewer > 1 else ''}"
        )


def _check_carvable(label: np.ndarray, groups: np.ndarray) -> None:
    check_split(label, "train")
    fewest, parts = min(np.bincount(label, minlength=2)), len(np.unique(groups))
    if min(fewest, parts) < _CARVED_FOLDS:
        raise ValueError(
            f"split train: {fewest} memes of the rarer label, and {parts} groups that share no picture or text; at "
            f"least {_CARVED_FOLDS} of each are needed to hold a split out. Add memes, or name the splits in the data"
        )


def check_labels(label: np.ndarray, name: str) -> None:
    """Raise ValueError unless a split has both labels; label: (N,)."""
    if len(np.unique(label)) < 2:
        raise ValueError(f"split {name}: all {len(label)} memes have one label; both labels are needed")
