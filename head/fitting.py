"""What is made of the best trials: heads and candidates fitted to the folds of some memes, and an ensemble chosen of them.

Done once with all memes that are tuned on, and once more without each part of them (`head.data.folds.parts`), which so is
scored as new memes are: by the mean of as many members, chosen, stopped and weighted without it. `head.pipeline` puts
those scores together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from head.candidates.given import Given
from head.candidates.table import CANDIDATES, REFERENCES, fit_candidates, strongest
from head.data.features import Features
from head.data.folds import Protocol, members, refold
from head.data.ranking import auroc
from head.model.ensemble import HeadEnsemble, inverse_std, select_bagged, weighted
from head.model.method import Method
from head.model.training import Diverged, Trained, TrainingSet, train_head
from head.search.study import Trial
from head.search.workers import open_pool

# Scores that deviate less are equal up to rounding.
_CONSTANT = 1e-9
ENSEMBLE, SINGLE = "fusion ensemble", "best single head"


@dataclass(frozen=True, eq=False)
class Memes:
    """What every fit is given: the memes that are tuned on, prompts as in `head.candidates.given.Given`, the seed, and where
    heads are trained."""

    features: Features
    prompts: dict[str, np.ndarray]
    seed: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Fit:
    """One to do. rows: of the memes to fit to; folds: (R, K), theirs; trials: to train again, the best first, or none for
    candidates alone; scored: rows of other memes to score."""

    rows: np.ndarray
    folds: np.ndarray
    trials: Sequence[Trial]
    scored: np.ndarray


@dataclass(frozen=True)
class Unit:
    """What makes a method's scores of two fits comparable, by the scores of the memes that its members held out: their mean
    and their deviation. A fit without a part has other settings, whose scores are of another size. Labels have no say: the
    slope that few of them would give is mostly noise, and an offset would say which part is short of which label."""

    centre: float
    size: float

    @classmethod
    def of(cls, method: Method) -> "Unit":
        """From a method's own memes."""
        scores = method.out_of_fold[np.isfinite(method.out_of_fold)]
        size = float(scores.std())
        return cls(float(scores.mean()), size if size > _CONSTANT else 0.0)

    def into(self, other: "Unit", scores: np.ndarray) -> np.ndarray:
        """Scores in this unit -> in another."""
        factor = other.size / self.size if self.size else 0.0
        return other.centre + (scores - self.centre) * factor


@dataclass(frozen=True, eq=False)
class Fitted:
    """methods: ENSEMBLE and SINGLE, where trials were given, the candidates and the references, with the scores of the memes
    fitted to by the members that held them out, {} where others were scored; units: of the methods; picks: what the
    ensemble is of, (name, times); reference: the simple candidate with the highest AUROC by those scores; apart: {name:
    (S,)} scores of the others."""

    methods: dict[str, Method]
    units: dict[str, Unit]
    picks: list[tuple[str, int]]
    reference: str
    apart: dict[str, np.ndarray]


def fits_of(features: Features, folds: np.ndarray, part: np.ndarray, protocol: Protocol, seed: int) -> list[Fit]:
    """What is to be fitted, without trials: to all memes, then without each part of them; folds: (R, N); part: (N,), of
    `head.data.folds.parts`."""
    fits = [Fit(np.arange(len(features)), folds, (), np.empty(0, np.int64))]
    for one in range(part.max() + 1):
        rows = np.flatnonzero(part != one)
        known = features.label[rows], features.copies[rows], features.split[rows]
        fits.append(Fit(rows, refold(*known, protocol, seed), (), np.flatnonzero(part == one)))
    return fits


def fit_all(memes: Memes, fits: Sequence[Fit], jobs: int) -> list[Fitted]:
    """Do all of the fits, so many at a time. Raises WorkerLost, and ValueError where no trial converges again."""
    steps = sum(len(one.trials) + len(CANDIDATES | REFERENCES) for one in fits)
    with (
        open_pool(partial(_itself, memes), fit, min(jobs, len(fits))) as pool,
        tqdm(total=steps, desc="fitting") as bar,
    ):
        results = dict(pool.deal(fits, lambda _: bar.update() is not False))
    return [results[number] for number in range(len(fits))]


def fit(memes: Memes, to_do: Fit, done: Callable[[], object]) -> Fitted:
    """Train the heads, fit the candidates, choose the ensemble, score the other memes; `done` is called after each head and
    each candidate."""
    features, shares = memes.features.at(to_do.rows), members(to_do.folds)
    fused = _trained(features, to_do, memes.device, done) if to_do.trials else []
    best = fused[0][1].head if fused else None
    methods = fit_candidates(Given(features, shares, memes.seed, memes.prompts, best), done)
    reference = strongest(features.label, methods)
    picks: list[tuple[str, int]] = []
    if fused:
        methods, picks = _with_heads(features.label, to_do.folds, fused, methods, memes.seed)
    units = {name: Unit.of(method) for name, method in methods.items()}
    if not len(to_do.scored):
        return Fitted(methods, units, picks, reference, {})
    others = memes.features.at(to_do.scored)
    return Fitted({}, units, picks, reference, {name: method.score(others) for name, method in methods.items()})


def crossed(whole: Fitted, others: Sequence[tuple[Fit, Fitted]], count: int) -> dict[str, Method]:
    """The methods of the fit to all `count` memes, with the scores that those without a part gave it, in the methods' own
    units; NaN for memes of no part.

    The reference, chosen as the best of many, has those of whatever was the best without each part."""

    def scores(name: str) -> np.ndarray:
        out = np.full(count, np.nan)
        for to_do, fitted in others:
            of = fitted.reference if name == whole.reference else name
            out[to_do.scored] = fitted.units[of].into(whole.units[name], fitted.apart[of])
        return out

    return {name: replace(method, out_of_fold=scores(name)) for name, method in whole.methods.items()}


def named(trial: Trial) -> str:
    """What a trial is called among the picks."""
    return f"trial {trial.number}"


def _with_heads(
    label: np.ndarray, folds: np.ndarray, fused: list[tuple[Trial, Trained]], candidates: dict[str, Method], seed: int
) -> tuple[dict[str, Method], list[tuple[str, int]]]:
    """The ensemble and the best single head before the candidates and references; and the ensemble's picks."""
    best_trial, best = fused[0]
    plain = {name: method for name, method in candidates.items() if name in CANDIDATES}
    names = [named(trial) for trial, _ in fused] + list(plain)
    heads = [trained.head for _, trained in fused] + [_only_head(method) for method in plain.values()]
    logits = np.stack([trained.logits for _, trained in fused] + [method.out_of_fold for method in plain.values()])
    ensemble, picks = _ensemble(label, folds, names, heads, logits, seed)
    single, alone = weighted([best.head], best.logits[None], np.ones(1))
    methods = {
        ENSEMBLE: Method(ensemble[1], ensemble[0].score, {"heads": len(picks)}, ensemble[0]),
        SINGLE: Method(alone, single.score, {"trial": best_trial.number}, single),
        **candidates,
    }
    return methods, picks


def _trained(
    features: Features, to_do: Fit, device: torch.device, done: Callable[[], object]
) -> list[tuple[Trial, Trained]]:
    """The trials that converge again, on the CPU, in their order."""
    data, kept = TrainingSet(features, members(to_do.folds), device), []
    for trial in to_do.trials:
        try:
            kept.append((trial, train_head(trial.head, trial.train, data)))
        except Diverged:  # as may happen with fewer memes, or on another machine
            pass
        done()
    if not kept:
        raise ValueError("none of the best trials converged when it was trained again; add trials")
    for _, trained in kept:  # not before: they share their scalings
        trained.head.cpu()
    return kept


def _ensemble(
    label: np.ndarray, folds: np.ndarray, names: list[str], heads: list[nn.Module], logits: np.ndarray, seed: int
) -> tuple[tuple[HeadEnsemble, np.ndarray], list[tuple[str, int]]]:
    """The ensemble and its own logits, and what was picked how often, of heads and candidates alike; logits: (T, N)."""
    there = np.isfinite(logits[0])
    order = np.argsort([-(auroc(label[there], row[there]) or 0.0) for row in logits], kind="stable")
    logits = logits[order]
    held = np.stack([folds[0] == fold for fold in range(folds[0].max() + 1)])
    counts = select_bagged(logits * inverse_std(logits)[:, None], label, held, seed)
    picks = [(names[order[place]], int(counts[place])) for place in np.flatnonzero(counts)]
    return weighted([heads[place] for place in order], logits, counts), picks


def _only_head(method: Method) -> nn.Module:
    assert method.ensemble is not None  # as every candidate has one
    return method.ensemble.heads[0]


def _itself(memes: Memes) -> Memes:
    return memes
