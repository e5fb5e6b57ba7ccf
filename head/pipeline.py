"""The tuning procedure: folds, search, candidates, ensemble, calibration, thresholds.

One function, so that nested cross-validation measures exactly what `make tune` does. It is given the memes that are
tuned on and no others.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from head.data.features import Features
from head.data.folds import Protocol, assign_folds, members, parts
from head.fitting import ENSEMBLE, FitData, cross_fitted, fit_all, fit_jobs, trial_name
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.judge.delong import auroc_difference
from head.judge.threshold import Aim
from head.model.method import Method
from head.search.space import Space
from head.search.study import StudyConfig, StudyResult, Trial, search
from head.search.workers import open_trainer

# Trials whose heads the ensemble is selected from, and how many of them may have the same kind of input: few and diverse.
# Their heads are trained again, since a study stores settings and no weights.
_FUSED, _OF_A_KIND = 4, 1
# Identifies the search space in the study's digest: a study made with another space cannot continue.
_SPACE = "kinds of input, valued without each part"


@dataclass(frozen=True)
class TuneConfig:
    """study: where trials are stored, and how many; protocol: of the folds; aim: of the thresholds; jobs: parallel trainings,
    at least 1; device: that heads are trained on."""

    study: StudyConfig
    protocol: Protocol
    aim: Aim
    jobs: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {self.jobs}")


@dataclass(frozen=True)
class Pick:
    """A head of the ensemble: its method's name, how often it was picked, and its trial, None for a candidate."""

    name: str
    picked: int
    trial: Trial | None = None


@dataclass(frozen=True, eq=False)
class Tuned:
    """methods: ENSEMBLE, SINGLE, the candidates and the references, calibrated; folds: (R, N) int64, the fold that holds a meme
    out in each repeat, -1 for none; picks: the ensemble's heads, the best first; reference: the simple candidate with the
    highest out-of-fold AUROC; best: what to ship, the reference unless the ensemble's AUROC is higher."""

    methods: dict[str, CalibratedMethod]
    folds: np.ndarray
    study: StudyResult
    picks: list[Pick]
    reference: str
    best: str


def tune(features: Features, digest: str, prompts: dict[str, np.ndarray], config: TuneConfig) -> Tuned:
    """Search, fit the candidates, select an ensemble, calibrate every method and choose its threshold.

    digest: fingerprint of the features; prompts: as in `head.candidates.data.CandidateData`. Raises what
    `head.search.study.search` and `head.data.folds` raise, and ValueError for test memes.
    """
    if "test" in features.split:
        raise ValueError("tuning must not see test memes")
    seed, label = config.study.seed, features.label
    folds = assign_folds(label, features.copies, features.split, config.protocol, seed)
    part = parts(label, features.copies, folds, seed)
    jobs = fit_jobs(features, folds, part, config.protocol, seed)  # refuses too few memes before minutes of search
    dims = {"image_dim": features.image.shape[1], "text_dim": features.text.shape[1], "joint": features.joint}
    with open_trainer(features, members(folds), config.device, config.jobs, part) as trainer:
        study = search(Space(dims, len(features)), study_digest(digest, config.protocol, seed), config.study, trainer)
    ranked = [study.best(_FUSED, _OF_A_KIND, one) for one in (None, *range(len(jobs) - 1))]
    jobs = [replace(job, trials=trials) for job, trials in zip(jobs, ranked)]
    whole, *others = fit_all(FitData(features, prompts, seed, config.device), jobs, config.jobs)
    methods = cross_fitted(whole, list(zip(jobs[1:], others)), len(label))
    judged = {name: calibrate_method(method, label, part, config.aim) for name, method in methods.items()}
    trials = {trial_name(trial): trial for trial in ranked[0]}
    picks = [Pick(name, count, trials.get(name)) for name, count in whole.picks]
    return Tuned(judged, folds, study, picks, whole.reference, _best(features, methods, whole.reference))


def study_digest(digest: str, protocol: Protocol, seed: int) -> str:
    """SHA-256, 64 hex digits, of what the trials of one study share: the memes, their folds, and the search space."""
    return hashlib.sha256(repr((digest, protocol, seed, _SPACE)).encode()).hexdigest()


def _best(features: Features, methods: dict[str, Method], reference: str) -> str:
    """ENSEMBLE if its cross-fitted AUROC is higher than the reference's, else the reference.

    Requiring a lead of one standard error costs .009 of AUROC on average in `bench.trust`, and .07 in the worst cell: the
    ensemble averages the simple methods too, so a lead within noise is more often real than not.
    """
    there = np.flatnonzero(np.isfinite(methods[ENSEMBLE].out_of_fold))
    ours, peer = (methods[name].out_of_fold[there] for name in (ENSEMBLE, reference))
    memes = features.at(there)
    return ENSEMBLE if auroc_difference(memes.label, ours, peer, memes.copies).lead > 0 else reference
