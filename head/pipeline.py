"""The whole way from memes to methods that can be judged: folds, search, ensemble, baselines, calibration, threshold.

One function, so that nested cross-validation judges exactly what `make tune` does. It sees the memes that are tuned on
and no others.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from head.baselines import fit_baselines
from head.data.features import Features
from head.data.folds import Protocol, assign_folds, members
from head.judge.scored import Judged, judge
from head.judge.threshold import Aim
from head.model.ensemble import evened, select, weighted
from head.model.method import Method
from head.search.space import Space
from head.search.study import Found, StudyConfig, Trial, search
from head.search.workers import Trainer, open_trainer

ENSEMBLE, SINGLE = "fusion ensemble", "best single head"
# Trials that the ensemble is chosen from. Their heads are trained again: a study keeps settings, not weights.
_CANDIDATES = 8


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


@dataclass(frozen=True, eq=False)
class Tuned:
    """methods: ENSEMBLE, SINGLE and the baselines, judged; folds: (R, N) int64, which fold holds a meme out in each
    repeat, -1 for none; picks: the ensemble's trials and how often each was picked, the best trial first."""

    methods: dict[str, Judged]
    folds: np.ndarray
    found: Found
    picks: list[tuple[Trial, int]]


def tune(features: Features, digest: str, prompts: dict[str, np.ndarray], config: TuneConfig) -> Tuned:
    """Search, choose an ensemble, fit the baselines, calibrate all and choose their thresholds.

    digest: fingerprint of the features; prompts: see `fit_baselines`. Raises what `head.search.study.search`,
    `head.data.folds.assign_folds` and `head.judge.threshold.choose_threshold` raise, and ValueError for test memes.
    """
    if "test" in features.split:
        raise ValueError("tuning must not see test memes")
    seed = config.study.seed
    folds = assign_folds(features.label, features.copies, features.split, config.protocol, seed)
    shares = members(folds)
    space = Space({"image_dim": features.image.shape[1], "text_dim": features.text.shape[1]}, len(features))
    with open_trainer(features, shares, config.device, config.jobs) as trainer:
        found = search(space, study_digest(digest, config.protocol, seed), config.study, trainer)
        methods, picks = _ensemble(features, folds, found, trainer)
    methods |= fit_baselines(features, shares, prompts, seed)
    judged = {name: judge(method, features.label, folds[0], config.aim) for name, method in methods.items()}
    return Tuned(judged, folds, found, picks)


def study_digest(digest: str, protocol: Protocol, seed: int) -> str:
    """What must be equal for trials to be of one study: the memes and their folds."""
    return hashlib.sha256(repr((digest, protocol, seed)).encode()).hexdigest()


def _ensemble(
    features: Features, folds: np.ndarray, found: Found, trainer: Trainer
) -> tuple[dict[str, Method], list[tuple[Trial, int]]]:
    trials = found.best(_CANDIDATES)
    kept: dict[int, Any] = {}
    for number, outcome in trainer.train([(trial.head, trial.train) for trial in trials], True, lambda *_: True):
        if outcome.trained is not None:  # on another machine, one that converged may diverge
            kept[number] = outcome.trained
    if not kept:
        raise ValueError("none of the best trials converged when it was trained again; add trials")
    order = sorted(kept)
    logits = np.stack([kept[number].logits for number in order])  # (T, N)
    held = np.stack([folds[0] == fold for fold in range(folds[0].max() + 1)])
    counts = select(logits * evened(logits)[:, None], features.label, held)
    heads, chosen = [kept[number].head for number in order], np.flatnonzero(counts)
    ensemble, together = weighted(heads, logits, counts)
    single, alone = weighted(heads[:1], logits[:1], np.ones(1))
    picks = [(trials[order[place]], int(counts[place])) for place in chosen]
    return {
        ENSEMBLE: Method(together, ensemble.score, {"heads": len(chosen)}, ensemble),
        SINGLE: Method(alone, single.score, {"trial": trials[order[0]].number}, single),
    }, picks
