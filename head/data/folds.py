"""Which memes are held out when: folds for cross-validation, and splits that a data set lacks.

It knows labels, groups of copies and splits; no vectors and no heads. A group is never divided between folds, for a copy
of a training meme is no test. `python -m head tune` calls it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

PROTOCOLS = ("kfold", "official")
Members = Sequence[tuple[np.ndarray, np.ndarray]]
"""Of each member, the rows that it trains on and those held out from it, by which it stops."""

# Five folds: a carved split is 20 % of the memes, the share that MultiOFF's own validation and test splits have.
_CARVED_FOLDS = 5
# Parts of the memes that are scored by fits without them: as many as folds by default.
_PARTS = 5
# Memes so scored that are enough: a threshold or a share of so many is known to .01.
_ENOUGH = 4000
# Fewer memes than this in train or validation give neither a head nor a choice between heads.
_FEWEST = 8
_LABELS = ("not offensive", "offensive")


@dataclass(frozen=True)
class Protocol:
    """How heads are compared. Raises ValueError for an unknown name or a count out of range.

    kfold: train and validation together in `folds` folds, dealt `repeats` times; official: heads are trained on train
    and compared on validation, `repeats` times; folds tells nothing there.
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
    """(R, N) int64: in which fold each meme is held out, for each of R repeats; -1: it is trained on in all.

    label: (N,) of 0 or 1; groups: (N,) int64, equal for copies; split: (N,) of "train" or "validation". Equal for an
    equal seed. Raises ValueError where a part would lack a label.
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
    """(rows to train on, rows held out), int64 each, of every fold of the first repeat, then of the second, ..."""
    return [
        (np.flatnonzero(row != fold), np.flatnonzero(row == fold)) for row in folds for fold in range(row.max() + 1)
    ]


def parts(label: np.ndarray, groups: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """(N,) int64: without which part of the memes all is fitted once more to score this one; -1: it is in none.

    folds: (R, N), of `assign_folds`. A part is a fold of the first repeat, several where folds are many; in the official
    protocol a fifth of validation. As many parts are kept as hold _ENOUGH memes, since each costs a fit. Raises
    ValueError where validation has one group of a label only.
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
    """`assign_folds` of the memes that a part leaves; in fewer folds where they are too few of a label for as many."""
    for count in range(protocol.folds, 2, -1):
        with suppress(ValueError):
            return assign_folds(label, groups, split, replace(protocol, folds=count), seed)
    return assign_folds(label, groups, split, replace(protocol, folds=2), seed)


def carve(label: np.ndarray, groups: np.ndarray, split: np.ndarray, wanted: Sequence[str], seed: int) -> np.ndarray:
    """The split (N,) str with a fifth of train renamed for each of the wanted names, "validation" or "test", as it was done
    before splits followed from the memes' content: bundles of then rest on it.

    A group stays on one side, the labels keep their shares. Raises ValueError where train is too small for it.
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
    """Raise ValueError unless a split's labels (N,) are enough and of both kinds."""
    if len(label) < _FEWEST:
        raise ValueError(f"split {name}: {len(label)} labelled memes with vectors, at least {_FEWEST} are needed")
    check_labels(label, name)


def _deal(label: np.ndarray, groups: np.ndarray, folds: int, seed: tuple[int, ...]) -> np.ndarray:
    """(N,) int64: the fold of each meme, groups whole, labels and sizes balanced.

    The greedy idea of scikit-learn's StratifiedGroupKFold: in an order that the seed gives, but large groups first, each
    goes where its labels are fewest. On MultiOFF both give folds equal to one meme; for 100,000 memes this takes 0.3 s
    a repeat, that one, which recomputes deviations per group and fold, about 13 s.
    """
    _, number = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(number, label == value) for value in (0, 1)], axis=1)  # (G, 2)
    # a meme weighs as much as its label is rare
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
    """Raise ValueError unless each fold holds both labels, and thus leaves both to train on."""
    apart = [len(np.unique(groups[label == value])) for value in (0, 1)]
    lacking = [value for value in (0, 1) if len(np.unique(row[label == value])) < folds]
    if lacking:
        value = min(lacking, key=apart.__getitem__)
        count, fewer = np.sum(label == value), min(*apart, folds - 1)
        grouped = f" in {apart[value]} group{'s' * (apart[value] > 1)}" if apart[value] < count else ""
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
            f"least {_CARVED_FOLDS} of each are needed to set a split aside. Add memes, or say the splits in "
            "the data"
        )


def check_labels(label: np.ndarray, name: str) -> None:
    """Raise ValueError unless a split's labels (N,) are of both kinds."""
    if len(np.unique(label)) < 2:
        raise ValueError(f"split {name}: all {len(label)} memes have one label; both labels are needed")
