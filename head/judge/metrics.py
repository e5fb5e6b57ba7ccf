"""Figures of merit of classifiers, each with an interval and a comparison with a reference method.

Works on labels, probabilities and thresholds; does not know which method made them or how its threshold was chosen.
`python -m head tune` and `python -m report` print the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

METRICS = ("accuracy", "f1_offensive", "macro_f1", "weighted_f1", "auroc", "average_precision", "brier", "ece")
DEFINITION = (
    "A meme is called offensive when its probability is at least the method's threshold. accuracy: share of the memes "
    "called what they are. f1_offensive: F1 of the class offensive. macro_f1: mean of both classes' F1. weighted_f1: "
    "mean of both, weighted by the memes of each class. The F1 of a class that is neither there nor predicted counts "
    "0. auroc and average_precision: of the ranking by probability, tied memes treated as scikit-learn does; undefined "
    "with one class only. brier: mean squared distance of probability and label. ece: expected calibration error, over "
    "10 equally wide bins of the probability the mean of |share of offensive memes - mean probability|, weighted by "
    "the memes of each bin; few memes push it up, and resampling them pushes its interval up further. Intervals: 95 % "
    "percentile bootstrap over the memes, 2000 resamples, the same for every method, its percentiles expanded for "
    "small samples (Hesterberg 2015) with the size of the rarer class. p: two-sided paired bootstrap of the difference "
    "from the reference method."
)
# Enough that a limit moves by less than .005 from seed to seed.
_RESAMPLES = 2000
# Resamples at a time times memes: arrays under a megabyte stay in the processor's cache, which halves the time.
_CELLS = 200_000
# As many as Guo et al. (2017) and most since.
_BINS = 10
# Resampled rankings are summed in single precision, so smaller differences than this are rounding.
_EQUAL = 1e-6


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


@dataclass(frozen=True)
class Figure:
    """An estimate and the p-value of its difference from the reference's; None for the reference or where undefined."""

    estimate: Estimate
    p: float | None

    def plain(self) -> dict[str, Any]:
        """As JSON values: {"point", "interval": [low, high] or None, "p"}; `read_figure` reads it back."""
        point, low, high = self.estimate.point, self.estimate.low, self.estimate.high
        return {"point": point, "interval": None if low is None else [low, high], "p": self.p}


def read_figure(plain: dict[str, Any]) -> Figure:
    """The figure that `Figure.plain` wrote."""
    low, high = plain["interval"] or (None, None)
    return Figure(Estimate(plain["point"], low, high), plain["p"])


def compare(
    label: np.ndarray,
    probabilities: dict[str, np.ndarray],
    thresholds: dict[str, float],
    reference: str | None,
    seed: int,
) -> dict[str, dict[str, Figure]]:
    """Each of METRICS for every method, as DEFINITION says, on the same resamples of the memes.

    label: (N,) of 0 and 1. probabilities: (N,) in [0, 1] by method; thresholds: by method. reference: the method that
    the others are compared with. Raises ValueError for shapes, names or probabilities that do not fit.
    """
    if probabilities.keys() != thresholds.keys() or (reference is not None and reference not in probabilities):
        raise ValueError(
            f"expected a threshold per method and a reference among them, got probabilities of {list(probabilities)}, "
            f"thresholds of {list(thresholds)} and the reference {reference!r}"
        )
    for method, probability in probabilities.items():
        check_probabilities(label, probability, method)
    judged = {name: _Judged(label, probability, thresholds[name]) for name, probability in probabilities.items()}
    point = {name: one.figures(np.ones((1, len(label))))[0] for name, one in judged.items()}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in judged}
    for weights in _resamples(len(label), seed):
        for name, one in judged.items():
            draws[name].append(one.figures(weights))
    drawn = {name: np.concatenate(parts).T for name, parts in draws.items()}  # (METRICS, _RESAMPLES) each
    tail = _tail(label)

    def figures(name: str) -> dict[str, Figure]:
        others = [None] * len(METRICS) if reference in (None, name) else drawn[reference]
        columns = zip(METRICS, point[name], drawn[name], others)
        return {metric: _figure(value, column, other, tail) for metric, value, column, other in columns}

    return {name: figures(name) for name in judged}


def share(hit: np.ndarray) -> Estimate:
    """Share of True among (N,) booleans with Wilson's 95 % interval (1927), which is sound at 0 and 1; N = 0: None."""
    if not len(hit):
        return Estimate(None, None, None)
    # scipy.stats has it as well, and takes a tenth of a server's start to import
    n, point = len(hit), float(hit.mean())
    z = float(ndtri(0.975))
    middle, half = point + z * z / (2 * n), z * np.sqrt(point * (1 - point) / n + z * z / (4 * n * n))
    low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
    # at the ends the formula is exact but for the last digit
    return Estimate(point, float(low) if point > 0 else 0.0, float(high) if point < 1 else 1.0)


def rates(positives: Any, negatives: Any, hits: Any, alarms: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy, F1 of the class offensive and F1 of the other class, each (R,), from counts of R rows.

    positives, negatives: memes of each class; hits, alarms: those of each class that are called offensive. An F1 of
    nothing there and nothing predicted is 0.
    """
    quiet, misses = negatives - alarms, positives - hits
    wrong = alarms + misses
    accuracy = _ratio(hits + quiet, positives + negatives)
    return accuracy, _ratio(2 * hits, 2 * hits + wrong), _ratio(2 * quiet, 2 * quiet + wrong)


def check_probabilities(label: np.ndarray, probability: np.ndarray, name: str = "the method") -> None:
    """Raises ValueError unless both are (N,), N > 0, the labels 0 or 1 and the probabilities within [0, 1]."""
    if label.ndim != 1 or label.shape != probability.shape or not len(label):
        raise ValueError(
            f"{name}: expected one label per probability, at least one, got {label.shape} and {probability.shape}"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"{name}: expected probabilities from 0 to 1, got NaN or others")
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"{name}: expected labels 0 and 1, got {np.unique(label)[:5].tolist()}")


class _Judged:
    """One method's answers, prepared once, so that its figures under any weighting of the memes are a few sums."""

    def __init__(self, label: np.ndarray, probability: np.ndarray, threshold: float) -> None:
        called, offensive = probability >= threshold, label == 1
        place = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
        gaps = np.eye(_BINS)[place] * (label - probability)[:, None]
        error = (label - probability) ** 2
        self._sums = np.column_stack((offensive, ~offensive, called & offensive, called & ~offensive, error, gaps))
        self._order = np.argsort(-probability, kind="stable")
        self._positive = offensive[self._order]
        ranked = probability[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))  # of each tied group

    def figures(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights of the memes -> (R, 8): METRICS; NaN where a figure is undefined."""
        sums = weights @ self._sums
        positives, negatives, hits, alarms, error = sums[:, :5].T
        rows = positives + negatives
        accuracy, offensive, other = rates(positives, negatives, hits, alarms)
        weighted = (positives * offensive + negatives * other) / rows
        ece = np.abs(sums[:, 5:]).sum(axis=1) / rows
        ranking = self._ranking(weights)
        return np.column_stack(
            (accuracy, offensive, (offensive + other) / 2, weighted, *ranking, error / rows, ece)  # as METRICS has them
        )

    def _ranking(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R, N) weights -> (R,) AUROC and (R,) average precision; NaN where a class has no weight."""
        every = np.take(weights, self._order, axis=1)  # from the highest probability down
        positive = every * self._positive
        if len(self._starts) < every.shape[1]:
            every = np.add.reduceat(every, self._starts, axis=1)  # (R, groups)
            positive = np.add.reduceat(positive, self._starts, axis=1)
        hits, called = np.cumsum(positive, axis=1), np.cumsum(every, axis=1)
        positives = hits[:, -1].astype(np.float64)  # the product below is beyond what single precision counts
        pairs = positives * (called[:, -1] - positives)
        wins = np.einsum("rn,rn->r", every - positive, hits - positive / 2)
        precision = hits / np.maximum(called, 1)
        found = np.einsum("rn,rn->r", positive, precision)
        return _ratio(wins, pairs, np.nan), np.where(pairs > 0, _ratio(found, positives), np.nan)


def _ratio(part: np.ndarray, whole: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole > 0)


def _tail(label: np.ndarray) -> float:
    """Percentage cut off at either end of the resampled values: 2.5 % for many memes, less for few.

    A resample varies less than a sample of the same size, by (n - 1) / n, and is spread like a normal where Student's
    t is due; Hesterberg (2015) expands the percentiles by both. n is the size of the rarer class, on which figures of
    two classes rest: with all memes for n the AUROC's interval would still be too short.
    """
    offensive = int(label.sum())
    n = max(2, min(offensive, len(label) - offensive) or len(label))
    return 100 * float(ndtr(stdtrit(n - 1, 0.025) * np.sqrt(n / (n - 1))))


def _figure(point: float, drawn: np.ndarray, others: np.ndarray | None, tail: float) -> Figure:
    """From a figure, its (R,) resampled values and those of the reference; resamples without a value are left out."""
    if np.isnan(point):
        return Figure(Estimate(None, None, None), None)
    there = ~np.isnan(drawn)
    low, high = np.percentile(drawn[there], (tail, 100 - tail))
    # A small ECE may lie below nearly all its resamples, yet an interval without its own point would only confuse.
    estimate = Estimate(float(point), float(min(low, point)), float(max(high, point)))
    return Figure(estimate, None if others is None else _p_value(drawn[there] - others[there]))


def _p_value(difference: np.ndarray) -> float:
    """Two-sided: twice the share of resamples on the rarer side of zero, with the sample itself counted among them."""
    rarer = min((difference <= _EQUAL).sum(), (difference >= -_EQUAL).sum())
    return float(min(1.0, 2 * (1 + rarer) / (len(difference) + 1)))


def _resamples(rows: int, seed: int) -> Iterator[np.ndarray]:
    """How often each meme is drawn, (R, N) at a time, _RESAMPLES in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // rows)
    for start in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - start)
        drawn = generator.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        # Single precision holds counts exactly, and the limits of an interval need no more.
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)
