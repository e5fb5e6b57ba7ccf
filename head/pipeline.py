"""The whole way from memes to methods that can be judged: folds, search, candidates, ensemble, calibration, threshold.

One function, so that nested cross-validation judges exactly what `make tune` does. It sees the memes that are tuned on
and no others.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from head.candidates.given import Given
from head.candidates.table import CANDIDATES, fit_candidates, strongest
from head.data.features import Features
from head.data.folds import Members, Protocol, assign_folds, crossed, members
from head.data.ranking import auroc
from head.judge.lead import auroc_lead
from head.judge.scored import Judged, judge
from head.judge.threshold import Aim
from head.model.ensemble import HeadEnsemble, evened, select, weighted
from head.model.method import Method
from head.model.training import Trained
from head.search.space import Space
from head.search.study import Found, StudyConfig, Trial, search
from head.search.workers import Trainer, open_trainer

ENSEMBLE, SINGLE = "fusion ensemble", "best single head"
# Trials that the ensemble is chosen from, at most so many that see the same. Their heads are trained again: a study keeps
# settings, not weights.
_FUSED, _OF_A_KIND = 8, 2
# Held-out memes from which on a member's best epoch on them hardly flatters it: no need to score others.
_MANY = 4000
# Of what a trial is drawn: a study made with another space cannot go on.
_SPACE = "kinds of input"


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
    ranks the memes best out of fold; best: what to ship, the reference unless the ensemble leads it beyond noise."""

    methods: dict[str, Judged]
    folds: np.ndarray
    found: Found
    picks: list[Pick]
    reference: str
    best: str


def tune(features: Features, digest: str, prompts: dict[str, np.ndarray], config: TuneConfig) -> Tuned:
    """Search, fit the candidates, choose an ensemble, calibrate all and choose their thresholds.

    digest: fingerprint of the features; prompts: see `head.candidates.given.Given`. Raises what
    `head.search.study.search`, `head.data.folds.assign_folds` and `head.judge.threshold.choose_threshold` raise, and
    ValueError for test memes.
    """
    if "test" in features.split:
        raise ValueError("tuning must not see test memes")
    seed = config.study.seed
    folds = assign_folds(features.label, features.copies, features.split, config.protocol, seed)
    shares, scored = members(folds), scoring_members(features, folds, seed)
    dims = {"image_dim": features.image.shape[1], "text_dim": features.text.shape[1], "joint": features.joint}
    with open_trainer(features, shares, config.device, config.jobs) as trainer:
        found = search(Space(dims, len(features)), study_digest(digest, config.protocol, seed), config.study, trainer)
    with open_trainer(features, scored, config.device, config.jobs) as trainer:
        fused = _fused(found, trainer)
    best_trial, best = fused[0]
    candidates = fit_candidates(Given(features, shares, seed, prompts, best.head, scored))
    plain = {name: method for name, method in candidates.items() if name in CANDIDATES}
    names = [_named(trial) for trial, _ in fused] + list(plain)
    heads = [trained.head for _, trained in fused] + [_only_head(method) for method in plain.values()]
    logits = np.stack([trained.logits for _, trained in fused] + [method.out_of_fold for method in plain.values()])
    ensemble, picks = _ensemble(features.label, folds, names, heads, logits)
    single, alone = weighted([best.head], best.logits[None], np.ones(1))
    trials = {_named(trial): trial for trial, _ in fused}
    methods = {
        ENSEMBLE: Method(ensemble[1], ensemble[0].score, {"heads": len(picks)}, ensemble[0]),
        SINGLE: Method(alone, single.score, {"trial": best_trial.number}, single),
        **candidates,
    }
    judged = {name: judge(method, features.label, folds[0], config.aim) for name, method in methods.items()}
    reference = strongest(features.label, candidates)
    chosen = [Pick(name, count, trials.get(name)) for name, count in picks]
    return Tuned(judged, folds, found, chosen, reference, _best(features.label, methods, reference))


def scoring_members(features: Features, folds: np.ndarray, seed: int) -> Members:
    """Members whose scores the best heads are chosen and calibrated by: none stops on a meme that it scores, unless there
    are so many that it does not matter."""
    shares = members(folds)
    many = min(len(held) for _, held in shares) >= _MANY
    return shares if many else crossed(features.label, features.copies, folds, seed)


def study_digest(digest: str, protocol: Protocol, seed: int) -> str:
    """What must be equal for trials to be of one study: the memes, their folds, and what a trial is drawn of."""
    return hashlib.sha256(repr((digest, protocol, seed, _SPACE)).encode()).hexdigest()


def _fused(found: Found, trainer: Trainer) -> list[tuple[Trial, Trained]]:
    """The best trials that differ, trained again, in the order of their values."""
    trials = found.best(_FUSED, _OF_A_KIND)
    kept: dict[int, Trained] = {}
    for number, outcome in trainer.train([(trial.head, trial.train) for trial in trials], True, lambda *_: True):
        if outcome.trained is not None:  # on another machine, one that converged may diverge
            kept[number] = outcome.trained
    if not kept:
        raise ValueError("none of the best trials converged when it was trained again; add trials")
    return [(trials[number], kept[number]) for number in sorted(kept)]


def _ensemble(
    label: np.ndarray, folds: np.ndarray, names: list[str], heads: list[nn.Module], logits: np.ndarray
) -> tuple[tuple[HeadEnsemble, np.ndarray], list[tuple[str, int]]]:
    """The ensemble and its own logits, and what was picked how often, of heads and candidates alike; logits: (T, N)."""
    there = np.isfinite(logits[0])
    order = np.argsort([-(auroc(label[there], row[there]) or 0.0) for row in logits], kind="stable")
    logits = logits[order]
    held = np.stack([folds[0] == fold for fold in range(folds[0].max() + 1)])
    counts = select(logits * evened(logits)[:, None], label, held)
    picks = [(names[order[place]], int(counts[place])) for place in np.flatnonzero(counts)]
    return weighted([heads[place] for place in order], logits, counts), picks


def _best(label: np.ndarray, methods: dict[str, Method], reference: str) -> str:
    """The simpler of two that the memes do not tell apart, where one standard error is noise."""
    there = np.isfinite(methods[ENSEMBLE].out_of_fold)
    ours, peer = (methods[name].out_of_fold[there] for name in (ENSEMBLE, reference))
    return ENSEMBLE if auroc_lead(label[there], ours, peer) > 1 else reference


def _named(trial: Trial) -> str:
    return f"trial {trial.number}"


def _only_head(method: Method) -> nn.Module:
    assert method.ensemble is not None  # as every candidate has one
    return method.ensemble.heads[0]
