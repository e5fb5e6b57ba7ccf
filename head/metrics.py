"""Figures of merit of a classifier, each with an interval, and the choice of its threshold.

Works on labels and probabilities; does not know which method made them. `python -m head tune` prints the table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

METRICS = ("accuracy", "f1_offensive", "macro_f1", "auroc")
DEFINITION = (
    "accuracy; F1 of the class offensive; macro-F1, the mean of both classes' F1, a class that is neither there nor "
    "predicted counting 0; AUROC over the whole split. A meme is called offensive when its probability is at least the "
    "method's threshold, which maximises macro-F1 on validation. Intervals: 95 % percentile bootstrap over the memes."
)
# Enough that a limit moves by less than .005 from seed to seed.
_RESAMPLES = 2000
# Resamples at a time times memes: arrays under a megabyte stay in the processor's cache, which halves the time.
_CELLS = 200_000


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its 95 % interval; None where it is undefined, as AUROC is with one class only."""

    point: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.point is None or self.low is None or self.high is None:
            return "n/a"
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def contains(self, value: float) -> bool:
        """Whether the interval holds `value`; an undefined one holds everything."""
        return self.low is None or self.high is None or self.low <= value <= self.high


def evaluate(label: np.ndarray, probability: np.ndarray, threshold: float, seed: int) -> dict[str, Estimate]:
    """Each of METRICS for (N,) labels and (N,) probabilities. The same seed draws the same resamples of the memes."""
    _check(label, probability)
    ranked = _Ranked(label, probability)
    called = probability >= threshold
    cells = np.stack([label == 1, label == 0, called & (label == 1), called & (label == 0)], axis=1)  # (N, 4)

    def figures(weights: np.ndarray) -> np.ndarray:  # (R, N) -> (R, 4)
        return np.column_stack((_rates(weights @ cells.astype(weights.dtype)), ranked.auroc(weights)))

    return dict(zip(METRICS, _estimates(figures, len(label), seed)))


def auroc(label: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of (N,) scores, ties counting half; None with one class only."""
    value = _Ranked(label, score).auroc(np.ones((1, len(label))))[0]
    return None if np.isnan(value) else float(value)


def auroc_difference(label: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int) -> Estimate:
    """AUROC of `first` minus that of `second`, (N,) each, over the same resamples of the memes."""
    _check(label, first)
    _check(label, second)
    left, right = _Ranked(label, first), _Ranked(label, second)
    return _estimates(lambda weights: (left.auroc(weights) - right.auroc(weights))[:, None], len(label), seed)[0]


def choose_threshold(label: np.ndarray, probability: np.ndarray) -> float:
    """The threshold with the highest macro-F1 on (N,) memes; among equals the one nearest to 0.5.

    Candidates are the mid-points between neighbouring probabilities, 0 and 1. A meme at the threshold is offensive.
    """
    _check(label, probability)
    order = np.argsort(probability, kind="stable")
    edges = np.concatenate(([0.0], np.unique(probability), [1.0]))
    candidates = (edges[:-1] + edges[1:]) / 2
    below = np.searchsorted(probability[order], candidates)  # memes that each candidate calls non-offensive
    positives = np.concatenate(([0], np.cumsum(label[order])))  # of the first k memes
    total = positives[-1]
    hits, called = total - positives[below], len(label) - below
    counts = np.stack(np.broadcast_arrays(total, len(label) - total, hits, called - hits), axis=1)
    scores = _rates(counts.astype(np.float64))[:, METRICS.index("macro_f1")]
    equals = candidates[scores >= scores.max() - 1e-12]  # two roundings of one fraction are equal
    return float(equals[np.argmin(np.abs(equals - 0.5))])


class _Ranked:
    """Scores sorted once, so that the AUROC of any weighting of the memes is a few sums."""

    def __init__(self, label: np.ndarray, score: np.ndarray) -> None:
        self._order = np.argsort(score, kind="stable")
        self._positive = label[self._order] == 1
        ranked = score[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))  # of each tied group

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights -> (R,): Mann-Whitney's statistic over the weighted pairs; NaN where a class has no weight."""
        weights = np.take(weights, self._order, axis=1)
        positive, negative = weights * self._positive, weights * ~self._positive
        if len(self._starts) < weights.shape[1]:
            positive = np.add.reduceat(positive, self._starts, axis=1)  # (R, groups)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        below = np.cumsum(negative, axis=1)
        pairs = below[:, -1] * positive.sum(axis=1)
        wins = np.einsum("rn,rn->r", positive, below - negative / 2)
        return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _rates(counts: np.ndarray) -> np.ndarray:
    """(R, 4) counts of offensive, non-offensive, hits and false alarms -> (R, 3): accuracy, F1 offensive, macro-F1."""
    positives, negatives, hits, alarms = counts.T
    quiet, misses = negatives - alarms, positives - hits
    offensive = _share(2 * hits, 2 * hits + alarms + misses)
    other = _share(2 * quiet, 2 * quiet + alarms + misses)
    return np.column_stack((_share(hits + quiet, positives + negatives), offensive, (offensive + other) / 2))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _estimates(figures: Callable[[np.ndarray], np.ndarray], rows: int, seed: int) -> list[Estimate]:
    """`figures` maps (R, N) weights to (R, M) values; one estimate per column, resamples without a value left out."""
    point = figures(np.ones((1, rows)))[0]
    drawn = np.concatenate([figures(weights) for weights in _resamples(rows, seed)])  # (_RESAMPLES, M)
    estimates = []
    for value, column in zip(point, drawn.T):
        if np.isnan(value):
            estimates.append(Estimate(None, None, None))
        else:
            low, high = np.nanpercentile(column, (2.5, 97.5))
            estimates.append(Estimate(float(value), float(low), float(high)))
    return estimates


def _resamples(rows: int, seed: int) -> Iterator[np.ndarray]:
    """How often each meme is drawn, (R, N) at a time, _RESAMPLES in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // rows)
    for start in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - start)
        drawn = generator.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        # Single precision holds counts exactly, and the limits of an interval need no more.
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)


def _check(label: np.ndarray, probability: np.ndarray) -> None:
    if label.ndim != 1 or label.shape != probability.shape or not len(label):
        raise ValueError(f"expected one label per probability, at least one, got {label.shape}, {probability.shape}")
    if not np.isfinite(probability).all():
        raise ValueError("the probabilities hold NaN or infinite numbers")
