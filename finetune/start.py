"""Where fine-tuning starts: a tuned bundle's memes, and its head made anew from the train split alone.

The heads in a bundle have seen validation memes, which decide here when to stop; so those that were picked for its
ensemble are trained again, with their settings, on train alone. That head on the frozen encoder is both the starting
point and the baseline. Loads no CLIP.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cache import DatasetIndex, UnusableIndex, absolute_if_file
from embed.pictures.hashing import hash_pictures
from embed.pictures.locate import pictures_root
from head.bundle.evaluation import load_vectors
from head.bundle.format import load_bundle
from head.bundle.settings import Judging
from head.candidates.given import Given
from head.candidates.table import CANDIDATES
from head.data.features import Features, fingerprint, load_tuning, usable_rows
from head.data.folds import Protocol, assign_folds, members, parts
from head.fitting import Fit, Unit, fits_of
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.judge.threshold import Aim
from head.model.ensemble import HeadEnsemble, weighted
from head.model.fusion import HeadConfig
from head.model.kinds import can_learn
from head.model.method import Method
from head.model.training import Diverged, TrainConfig, TrainingSet, train_head

_OFFICIAL = Protocol("official")


class UnusableStart(ValueError):
    """A bundle that fine-tuning cannot start from."""


@dataclass(frozen=True, eq=False)
class Start:
    """The bundle that fine-tuning starts from, and its memes on the frozen encoder's vectors.

    folder, config: of the bundle; index: of its memes; features: train and validation, as split for fine-tuning; root:
    the folder of the pictures.
    """

    folder: Path
    config: dict[str, Any]
    index: DatasetIndex
    features: Features
    root: Path

    @property
    def judging(self) -> Judging:
        """How the fine-tuned bundle is judged: on validation, with the aim and the review band of the one before."""
        review = self.config["review"]
        return Judging(_OFFICIAL, Aim(**self.config["aim"]), self.config["seed"], review and review["share"])

    @property
    def folds(self) -> np.ndarray:
        """(N,) int64: 0 for the memes of validation, -1 for those of train."""
        features, seed = self.features, self.config["seed"]
        return assign_folds(features.label, features.copies, features.split, _OFFICIAL, seed)[0]

    @property
    def parts(self) -> np.ndarray:
        """(N,) int64, of `head.data.folds.parts`: the fifths of validation."""
        return parts(self.features.label, self.features.copies, self.folds[None], self.config["seed"])

    @property
    def fingerprint(self) -> str:
        """Of the features."""
        return fingerprint(self.features, self.index.spec)


def read_start(folder: Path, artifacts: Path) -> Start:
    """Read a bundle and its memes, and see that they are what it was tuned on. Raises UnusableStart, UnusableBundle,
    DatasetError and ValueError, each naming what to do."""
    config = load_bundle(folder).config
    if "finetuned" in config:
        before = folder.with_name(config["finetuned"]["from"]["name"])
        raise UnusableStart(f"{folder}: fine-tuned already; start from the bundle that it came from: --bundle {before}")
    if "imported" in config["spec"]:
        raise UnusableStart(f"{folder}: tuned on imported vectors, of which there is no encoder here to fine-tune")
    try:
        index = load_vectors(folder, artifacts, config, test=False).index
    except UnusableIndex as error:
        raise UnusableStart(
            f"{folder}: its memes are needed, and their index is not under {artifacts}; give the --artifacts in which it "
            f"was tuned ({error})"
        ) from error
    root = _unchanged_pictures(index)
    features = load_tuning(index, artifacts / "vectors", True, config["seed"])
    return Start(folder, config, index, features, root)


def frozen_head(start: Start) -> CalibratedMethod:
    """What the bundle ships, made anew on train alone and stopped by validation; of an ensemble, those of its methods through
    which an encoder can learn. Calibrated on validation, each fifth of which is scored by heads that the others stopped.
    Raises UnusableStart where there is none."""
    features, folds = start.features, start.folds[None]
    part = start.parts
    whole, *others = fits_of(features, folds, part, _OFFICIAL, start.config["seed"])
    method = _frozen(start, whole)
    unit, out = Unit.of(method), np.full(len(features), np.nan)
    for to_do in others:
        without = _frozen(start, to_do)
        out[to_do.scored] = Unit.of(without).into(unit, without.score(features.at(to_do.scored)))
    return calibrate_method(replace(method, out_of_fold=out), features.label, part, start.judging.aim)


def _frozen(start: Start, to_do: Fit) -> Method:
    """The heads fitted to some of the memes, with their scores of the memes of validation among these."""
    features, shares = start.features.at(to_do.rows), members(to_do.folds)
    picks = start.config["study"]["picks"]
    if start.config["shipped"] in CANDIDATES:
        picks = [{"method": start.config["shipped"], "picked": 1}]
    data = TrainingSet(features, shares, torch.device("cpu"))
    given = Given(features, shares, start.config["seed"])
    heads: list[tuple[nn.Module, np.ndarray, int]] = []
    for pick in picks:
        try:
            head, logits = _again(pick, given, data)
        except Diverged:
            continue
        if can_learn(head):
            heads.append((head, logits, pick["picked"]))
    if not heads:
        raise UnusableStart(
            f"{start.folder}: it ships {start.config['shipped']}, of which nothing converged on train alone, or through which "
            "no encoder can learn (votes and trees have no gradient); tune with more trials, or with SHIP=ensemble or "
            "SHIP=regression"
        )
    trained, scores, counts = zip(*heads)
    ensemble, together = weighted(trained, np.stack(scores), np.array(counts))
    return Method(together, ensemble.score, {"heads": len(trained)}, ensemble)


def _again(pick: dict[str, Any], given: Given, data: TrainingSet) -> tuple[nn.Module, np.ndarray]:
    """A pick's head, and its logits (N,) of the memes of validation."""
    if "head" in pick:
        trained = train_head(HeadConfig(**pick["head"]), TrainConfig.from_dict(pick["train"]), data)
        return trained.head, trained.logits
    method = CANDIDATES[pick["method"]](given)
    if method is None or method.ensemble is None:  # neighbours in the space of a head that is not trained here
        raise Diverged(pick["method"])
    return method.ensemble.heads[0], method.out_of_fold


def sides_of(ensemble: HeadEnsemble) -> set[str]:
    """Which vectors the heads of an ensemble read: "image", "text" or both."""
    return {side for head in ensemble.heads for side in head.config.sides}  # type: ignore[union-attr]


def _unchanged_pictures(index: DatasetIndex) -> Path:
    """The folder of the pictures, once each is known to be the one that was embedded."""
    root = pictures_root(index.source)
    images = {index.images[row]: (index.image_stamps[row], index.image_keys[row]) for row in usable_rows(index)}
    hashed = hash_pictures(root, images, images)
    for image, (_, key) in images.items():
        if hashed.keys.get(image) != key:
            reason = hashed.problems.get(image, "it has changed since it was embedded")
            raise UnusableStart(f"{root / image}: {reason}; run `make embed` and `make tune` again")
    return root


def encoder_of(start: Start) -> tuple[str, str]:
    """Model and pretrained, a checkpoint by its whole path."""
    encoder = start.config["encoder"]
    return encoder["model"], absolute_if_file(encoder["pretrained"])
