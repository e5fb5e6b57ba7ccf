"""The whole way from memes to methods that can be judged: folds, search, candidates, ensemble, calibration, threshold.

One function, so that nested cross-validation judges exactly what `make tune` does. It sees the memes that are tuned on
and no others.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from head.data.features import Features
from head.data.folds import Protocol, assign_folds, members, parts
from head.fitting import ENSEMBLE, Memes, crossed, fit_all, fits_of, named
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.judge.delong import auroc_difference
from head.judge.threshold import Aim
from head.model.method import Method
from head.search.space import Space
from head.search.study import Found, StudyConfig, Trial, search
from head.search.workers import open_trainer

# Trials that the ensemble is chosen from, at most so many that see the same: few and different. Their heads are trained
# again: a study keeps settings, not weights.
_FUSED, _OF_A_KIND = 4, 1
# Of what a trial is drawn: a study made with another space cannot go on.
_SPACE = "kinds of input, valued without each part"


@dataclass(frozen=True)
class TuneConfig:
    """study: where and how long to search; protocol: which memes judge which; aim: of the thresholds; jobs: trainings at
    a time; device: where they run."""

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
    """Of the ensemble: a method's name and how often it is picked; trial: the fusion head's, None for a candidate."""

    name: str
    picked: int
    trial: Trial | None = None


@dataclass(frozen=True, eq=False)
class Tuned:
    """methods: ENSEMBLE, SINGLE, the candidates and the references, judged; folds: (R, N) int64, which fold holds a meme
    out in each repeat, -1 for none; picks: what the ensemble is made of, the best first; reference: the candidate that
    ranks the memes best out of fold; best: what to ship, the reference unless the ensemble leads it."""

    methods: dict[str, CalibratedMethod]
    folds: np.ndarray
    found: Found
    picks: list[Pick]
    reference: str
    best: str


def tune(features: Features, digest: str, prompts: dict[str, np.ndarray], config: TuneConfig) -> Tuned:
    """Search, fit the candidates, choose an ensemble, calibrate all and choose their thresholds.

    digest: fingerprint of the features; prompts: see `head.candidates.given.Given`. Raises what
    `head.search.study.search`, `head.data.folds` and `head.judge.threshold.choose_threshold` raise, and ValueError for
    test memes.
    """
    if "test" in features.split:
        raise ValueError("tuning must not see test memes")
    seed, label = config.study.seed, features.label
    folds = assign_folds(label, features.copies, features.split, config.protocol, seed)
    part = parts(label, features.copies, folds, seed)
    fits = fits_of(features, folds, part, config.protocol, seed)  # refuses what is too little before minutes of search
    dims = {"image_dim": features.image.shape[1], "text_dim": features.text.shape[1], "joint": features.joint}
    with open_trainer(features, members(folds), config.device, config.jobs, part) as trainer:
        found = search(Space(dims, len(features)), study_digest(digest, config.protocol, seed), config.study, trainer)
    ranked = [found.best(_FUSED, _OF_A_KIND, one) for one in (None, *range(len(fits) - 1))]
    fits = [replace(one, trials=trials) for one, trials in zip(fits, ranked)]
    whole, *others = fit_all(Memes(features, prompts, seed, config.device), fits, config.jobs)
    methods = crossed(whole, list(zip(fits[1:], others)), len(label))
    judged = {name: calibrate_method(method, label, part, config.aim) for name, method in methods.items()}
    trials = {named(trial): trial for trial in ranked[0]}
    picks = [Pick(name, count, trials.get(name)) for name, count in whole.picks]
    return Tuned(judged, folds, found, picks, whole.reference, _best(features, methods, whole.reference))


def study_digest(digest: str, protocol: Protocol, seed: int) -> str:
    """What must be equal for trials to be of one study: the memes, their folds, and what a trial is drawn of."""
    return hashlib.sha256(repr((digest, protocol, seed, _SPACE)).encode()).hexdigest()


def _best(features: Features, methods: dict[str, Method], reference: str) -> str:
    """The simple method, unless the ensemble ranks the memes better; both by scores that nobody chose them by.

    A lead of one standard error was asked for: in `bench.trust` that costs .009 of AUROC in the mean and .07 in the worst
    cell, since the ensemble averages the simple methods, too, and a lead within noise is more often true than not.
    """
    there = np.flatnonzero(np.isfinite(methods[ENSEMBLE].out_of_fold))
    ours, peer = (methods[name].out_of_fold[there] for name in (ENSEMBLE, reference))
    memes = features.at(there)
    return ENSEMBLE if auroc_difference(memes.label, ours, peer, memes.copies).lead > 0 else reference
