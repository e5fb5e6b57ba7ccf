"""Where fine-tuning starts: a tuned bundle's memes, and its head refitted on the train split alone.

The heads in a bundle have seen validation memes, which here decide when to stop. So the heads of its ensemble are
trained again, with their settings, on train; on the frozen encoder they are the starting point and the baseline.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cache import DatasetIndex, Layout, UnusableIndex, absolute_if_file
from embed.pictures.keys import hash_pictures
from embed.pictures.locate import pictures_root
from embed.plan.earlier import hints
from head.bundle.evaluation import load_bundle_data
from head.bundle.format import load_bundle
from head.bundle.settings import Judging, review_share
from head.candidates.data import CandidateData
from head.candidates.table import CANDIDATES
from head.data.features import Features, fingerprint, load_tuning, usable_rows
from head.data.folds import Protocol, assign_folds, members, parts
from head.fitting import FitJob, ScoreScale, fit_jobs
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.judge.threshold import aim_of
from head.model.ensemble import HeadEnsemble, weighted_ensemble
from head.model.fusion import HeadConfig
from head.model.kinds import differentiable
from head.model.method import Method
from head.model.training import Diverged, TrainConfig, TrainingSet, train_head

_OFFICIAL = Protocol("official")


class UnusableStart(ValueError):
    """A bundle that fine-tuning cannot start from."""


@dataclass(frozen=True, eq=False)
class Start:
    """The bundle that fine-tuning starts from, and its memes with the frozen encoder's vectors.

    folder, config: of the bundle; artifacts: folder of vectors and results; index: of its memes; features: train and
    validation, as split for fine-tuning; root: folder of the pictures.
    """

    folder: Path
    artifacts: Path
    config: dict[str, Any]
    index: DatasetIndex
    features: Features
    root: Path

    @property
    def work(self) -> Path:
        """The folder for checkpoints, the activation cache and the delta, while fine-tuning runs."""
        return Layout(self.artifacts).finetune(self.config["name"])

    @property
    def judging(self) -> Judging:
        """How the fine-tuned bundle is evaluated: on validation, with the original bundle's aim and review band."""
        return Judging(_OFFICIAL, aim_of(self.config), self.config["seed"], review_share(self.config))

    @property
    def folds(self) -> np.ndarray:
        """(N,) int64: 0 for validation memes, -1 for train memes."""
        features, seed = self.features, self.config["seed"]
        return assign_folds(features.label, features.copies, features.split, _OFFICIAL, seed)[0]

    @property
    def parts(self) -> np.ndarray:
        """(N,) int64, as `head.data.folds.parts`: the fifth of validation that a meme is in, -1 for train."""
        return parts(self.features.label, self.features.copies, self.folds[None], self.config["seed"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the features, 64 hex digits."""
        return fingerprint(self.features, self.index.spec)


def read_start(folder: Path, artifacts: Path) -> Start:
    """Read a bundle and its memes, and check that these are what it was tuned on. Raises UnusableStart, UnusableBundle,
    DatasetError and ValueError, each naming the remedy."""
    config = load_bundle(folder).config
    if "finetuned" in config:
        before = folder.with_name(config["finetuned"]["from"]["name"])
        raise UnusableStart(f"{folder}: fine-tuned already; start from the bundle that it came from: --bundle {before}")
    if "imported" in config["spec"]:
        raise UnusableStart(f"{folder}: tuned on imported vectors, so there is no encoder to fine-tune")
    try:
        index = load_bundle_data(folder, artifacts, config, test=False).index
    except UnusableIndex as error:
        raise UnusableStart(
            f"{folder}: the index of its memes is not under {artifacts}; give the --artifacts folder it was tuned in ({error})"
        ) from error
    root = _unchanged_pictures(index)
    features = load_tuning(index, Layout(artifacts).vectors, True, config["seed"])
    return Start(folder, artifacts, config, index, features, root)


def frozen_head(start: Start) -> CalibratedMethod:
    """The shipped method refitted on train with early stopping on validation; of an ensemble, its differentiable heads.

    Calibrated on validation, where each fifth is scored by heads that the other fifths stopped. Raises UnusableStart where
    no head converges or none is differentiable.
    """
    features, folds = start.features, start.folds[None]
    part = start.parts
    whole, *others = fit_jobs(features, folds, part, _OFFICIAL, start.config["seed"])
    method = _fit_frozen(start, whole)
    scale, out = ScoreScale.of(method), np.full(len(features), np.nan)
    for job in others:
        without = _fit_frozen(start, job)
        out[job.scored] = ScoreScale.of(without).convert(without.score(features.at(job.scored)), scale)
    return calibrate_method(replace(method, out_of_fold=out), features.label, part, start.judging.aim)


def _fit_frozen(start: Start, job: FitJob) -> Method:
    """The heads fitted to the job's train memes, with their out-of-fold scores of its validation memes."""
    features, shares = start.features.at(job.rows), members(job.folds)
    picks = start.config["study"]["picks"]
    if start.config["shipped"] in CANDIDATES:
        picks = [{"method": start.config["shipped"], "picked": 1}]
    data = TrainingSet(features, shares, torch.device("cpu"))
    candidate_data = CandidateData(features, shares, start.config["seed"])
    heads: list[tuple[nn.Module, np.ndarray, int]] = []
    for pick in picks:
        try:
            head, logits = _refit(pick, candidate_data, data)
        except Diverged:
            continue
        if differentiable(head):
            heads.append((head, logits, pick["picked"]))
    if not heads:
        raise UnusableStart(
            f"{start.folder}: it ships {start.config['shipped']}, which did not converge on the train split or has no gradient for "
            "the encoder (nearest neighbours, trees); tune with more trials, or with SHIP=ensemble or SHIP=regression"
        )
    trained, scores, counts = zip(*heads)
    ensemble, logits = weighted_ensemble(trained, np.stack(scores), np.array(counts))
    return Method(logits, ensemble.score, {"heads": len(trained)}, ensemble)


def _refit(pick: dict[str, Any], candidate_data: CandidateData, data: TrainingSet) -> tuple[nn.Module, np.ndarray]:
    """A pick's head, and its out-of-fold logits (N,), NaN for train memes. Raises Diverged."""
    if "head" in pick:
        trained = train_head(HeadConfig(**pick["head"]), TrainConfig.from_dict(pick["train"]), data)
        return trained.head, trained.logits
    method = CANDIDATES[pick["method"]](candidate_data)
    if method is None or method.ensemble is None:  # neighbours in the space of a fusion head, which is not trained here
        raise Diverged(pick["method"])
    return method.ensemble.heads[0], method.out_of_fold


def sides_of(ensemble: HeadEnsemble) -> set[str]:
    """The sides that the heads read: "image", "text" or both."""
    return {side for head in ensemble.heads for side in head.config.sides}  # type: ignore[union-attr]


def _unchanged_pictures(index: DatasetIndex) -> Path:
    """The folder of the pictures. Raises UnusableStart where one is not the picture that was embedded."""
    root = pictures_root(index.source)
    usable = set(usable_rows(index))
    images = [image if row in usable else "" for row, image in enumerate(index.images)]
    hashed = hash_pictures(root, images, hints(index))
    for row, (key, found) in enumerate(zip(index.image_keys, hashed.keys)):
        if images[row] and found != key:
            reason = hashed.problems[row] or "it has changed since it was embedded"
            raise UnusableStart(f"{root / images[row]}: {reason}; run `make embed` and `make tune` again")
    return root


def encoder_of(start: Start) -> tuple[str, str]:
    """open_clip's model and pretrained; a checkpoint file as an absolute path."""
    encoder = start.config["encoder"]
    return encoder["model"], absolute_if_file(encoder["pretrained"])
