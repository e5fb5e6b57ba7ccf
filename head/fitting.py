"""Fit heads, candidates and an ensemble to the folds of some memes, and cross-fit them.

Everything is fitted once to all memes that are tuned on, and once more without each part of them
(`head.data.folds.parts`). The fit without a part scores that part as it would score new memes: by the mean over all
members, chosen, stopped and weighted without it. `cross_fitted` joins those scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from head.candidates.data import CandidateData
from head.candidates.table import CANDIDATES, REFERENCES, fit_candidates, strongest
from head.data.features import Features
from head.data.folds import Protocol, members, refold
from head.data.ranking import auroc
from head.model.ensemble import HeadEnsemble, inverse_std, select_bagged, weighted_ensemble
from head.model.method import Method
from head.model.training import Diverged, Trained, TrainingSet, train_head
from head.search.study import Trial
from head.search.workers import open_pool

# Standard deviations below this are rounding.
_CONSTANT = 1e-9
ENSEMBLE, SINGLE = "fusion ensemble", "best single head"


@dataclass(frozen=True, eq=False)
class FitData:
    """What every fit uses: the memes that are tuned on, prompts as in `head.candidates.data.CandidateData`, the seed, and the
    device that heads are trained on."""

    features: Features
    prompts: dict[str, np.ndarray]
    seed: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class FitJob:
    """One fit. rows: (F,) of the memes to fit to; folds: (R, F), of those memes; trials: to train again, the best first, none
    to fit candidates alone; scored: (S,) rows of held-out memes to score."""

    rows: np.ndarray
    folds: np.ndarray
    trials: Sequence[Trial]
    scored: np.ndarray


@dataclass(frozen=True)
class ScoreScale:
    """Mean and standard deviation of a method's out-of-fold scores, by which scores of two fits become comparable: a fit
    without a part has other settings, hence another scale. Labels are not used: a slope fitted to few of them is mostly
    noise, and an offset would reveal the part's share of each label."""

    mean: float
    std: float

    @classmethod
    def of(cls, method: Method) -> "ScoreScale":
        """From a method's out-of-fold scores; a std of rounding size is 0."""
        scores = method.out_of_fold[np.isfinite(method.out_of_fold)]
        std = float(scores.std())
        return cls(float(scores.mean()), std if std > _CONSTANT else 0.0)

    def convert(self, scores: np.ndarray, target: "ScoreScale") -> np.ndarray:
        """Scores on this scale -> on the target's."""
        factor = target.std / self.std if self.std else 0.0
        return target.mean + (scores - self.mean) * factor


@dataclass(frozen=True, eq=False)
class Fitted:
    """methods: ENSEMBLE and SINGLE, where trials were given, the candidates and the references, with out-of-fold scores of the
    memes fitted to; {} where held-out memes were scored. scales: of each method's out-of-fold scores; picks: (name, times)
    of the ensemble's heads; reference: the simple candidate with the highest out-of-fold AUROC; held_out: {name: (S,)}
    scores of the held-out memes."""

    methods: dict[str, Method]
    scales: dict[str, ScoreScale]
    picks: list[tuple[str, int]]
    reference: str
    held_out: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Library:
    """T heads that ensemble selection chooses from, their names, and their out-of-fold logits (T, N)."""

    names: list[str]
    heads: list[nn.Module]
    logits: np.ndarray


def fit_jobs(features: Features, folds: np.ndarray, part: np.ndarray, protocol: Protocol, seed: int) -> list[FitJob]:
    """The fits to do, without trials: to all memes, then without each part. folds: (R, N); part: (N,), of
    `head.data.folds.parts`. Raises ValueError where the memes without a part are too few for folds."""
    jobs = [FitJob(np.arange(len(features)), folds, (), np.empty(0, np.int64))]
    for one in range(part.max() + 1):
        rows = np.flatnonzero(part != one)
        known = features.label[rows], features.copies[rows], features.split[rows]
        jobs.append(FitJob(rows, refold(*known, protocol, seed), (), np.flatnonzero(part == one)))
    return jobs


def fit_all(data: FitData, jobs: Sequence[FitJob], workers: int) -> list[Fitted]:
    """Do all jobs, `workers` at a time. Raises WorkerLost, and ValueError where no trial converges again."""
    steps = sum(len(job.trials) + len(CANDIDATES | REFERENCES) for job in jobs)
    with (
        open_pool(partial(_identity, data), fit, min(workers, len(jobs))) as pool,
        tqdm(total=steps, desc="fitting") as bar,
    ):
        results = dict(pool.deal(jobs, lambda _: bar.update() is not False))
    return [results[number] for number in range(len(jobs))]


def fit(data: FitData, job: FitJob, done: Callable[[], object]) -> Fitted:
    """Train the heads, fit the candidates, choose the ensemble, score the held-out memes; calls `done` after each head and
    each candidate."""
    features, shares = data.features.at(job.rows), members(job.folds)
    trained = _train_trials(features, job, data.device, done) if job.trials else []
    best = trained[0][1].head if trained else None
    methods = fit_candidates(CandidateData(features, shares, data.seed, data.prompts, best), done)
    reference = strongest(features.label, methods)
    picks: list[tuple[str, int]] = []
    if trained:
        methods, picks = _with_heads(features.label, job.folds, trained, methods, data.seed)
    scales = {name: ScoreScale.of(method) for name, method in methods.items()}
    if not len(job.scored):
        return Fitted(methods, scales, picks, reference, {})
    held_out = data.features.at(job.scored)
    return Fitted({}, scales, picks, reference, {name: method.score(held_out) for name, method in methods.items()})


def cross_fitted(whole: Fitted, others: Sequence[tuple[FitJob, Fitted]], count: int) -> dict[str, Method]:
    """The methods of the fit to all `count` memes, each meme scored by the fit without its part, on the whole fit's scale;
    NaN for memes in no part.

    The reference is chosen as the best of many, so its scores are those of the reference of each fit."""

    def scores(name: str) -> np.ndarray:
        out = np.full(count, np.nan)
        for job, fitted in others:
            own = fitted.reference if name == whole.reference else name
            out[job.scored] = fitted.scales[own].convert(fitted.held_out[own], whole.scales[name])
        return out

    return {name: replace(method, out_of_fold=scores(name)) for name, method in whole.methods.items()}


def trial_name(trial: Trial) -> str:
    """The name of a trial's head among the picks."""
    return f"trial {trial.number}"


def _with_heads(
    label: np.ndarray, folds: np.ndarray, trained: list[tuple[Trial, Trained]], candidates: dict[str, Method], seed: int
) -> tuple[dict[str, Method], list[tuple[str, int]]]:
    """The ensemble and the best single head, followed by the candidates and references; and the ensemble's picks."""
    best_trial, best = trained[0]
    plain = {name: method for name, method in candidates.items() if name in CANDIDATES}
    library = _Library(
        [trial_name(trial) for trial, _ in trained] + list(plain),
        [one.head for _, one in trained] + [_only_head(method) for method in plain.values()],
        np.stack([one.logits for _, one in trained] + [method.out_of_fold for method in plain.values()]),
    )
    (ensemble, logits), picks = _ensemble(label, folds, library, seed)
    single, alone = weighted_ensemble([best.head], best.logits[None], np.ones(1))
    methods = {
        ENSEMBLE: Method(logits, ensemble.score, {"heads": len(picks)}, ensemble),
        SINGLE: Method(alone, single.score, {"trial": best_trial.number}, single),
        **candidates,
    }
    return methods, picks


def _train_trials(
    features: Features, job: FitJob, device: torch.device, done: Callable[[], object]
) -> list[tuple[Trial, Trained]]:
    """The job's trials that converge again, in their order; heads on the CPU."""
    data, converged = TrainingSet(features, members(job.folds), device), []
    for trial in job.trials:
        try:
            converged.append((trial, train_head(trial.head, trial.train, data)))
        except Diverged:  # possible with fewer memes, or on another machine
            pass
        done()
    if not converged:
        raise ValueError("none of the best trials converged when it was trained again; add trials")
    for _, trained in converged:  # not before: heads share their scalings
        trained.head.cpu()
    return converged


def _ensemble(
    label: np.ndarray, folds: np.ndarray, library: _Library, seed: int
) -> tuple[tuple[HeadEnsemble, np.ndarray], list[tuple[str, int]]]:
    """The ensemble with its own out-of-fold logits (N,), and (name, times) of what was picked."""
    there = np.isfinite(library.logits[0])
    order = np.argsort([-(auroc(label[there], row[there]) or 0.0) for row in library.logits], kind="stable")
    logits = library.logits[order]
    held = np.stack([folds[0] == fold for fold in range(folds[0].max() + 1)])
    counts = select_bagged(logits * inverse_std(logits)[:, None], label, held, seed)
    picks = [(library.names[order[place]], int(counts[place])) for place in np.flatnonzero(counts)]
    return weighted_ensemble([library.heads[place] for place in order], logits, counts), picks


def _only_head(method: Method) -> nn.Module:
    assert method.ensemble is not None  # every candidate has one
    return method.ensemble.heads[0]


def _identity(data: FitData) -> FitData:
    return data
