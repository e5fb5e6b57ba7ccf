"""Metrics of classifiers with confidence intervals, from labels, probabilities and thresholds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from head.data.ranking import auroc
from head.judge.delong import auroc_interval

METRICS = ("accuracy", "f1_offensive", "macro_f1", "weighted_f1", "auroc", "average_precision", "brier", "ece")
DEFINITION = (
    "A meme is called offensive when its probability is at least the method's threshold. accuracy: share of the memes "
    "called what they are. f1_offensive: F1 of the class offensive. macro_f1: mean of both classes' F1. weighted_f1: "
    "mean of both, weighted by the memes of each class. The F1 of a class that is neither there nor predicted counts "
    "0. auroc and average_precision: of the ranking by probability, tied memes treated as scikit-learn does; undefined "
    "with one class only. brier: mean squared distance of probability and label. ece: expected calibration error, over "
    "10 equally wide bins of the probability the mean of |share of offensive memes - mean probability|, weighted by "
    "the memes of each bin; few memes push it up, and no resampling knows by how much, so it has no interval. Intervals "
    "are 95 %. auroc: DeLong et al. (1988) on the logit scale, with Student's t. The others: percentile bootstrap, 2000 "
    "resamples, the same for every method, its percentiles expanded for small samples (Hesterberg 2015) with the size of "
    "the rarer class; a figure of exactly 0 or 1 has Wilson's limits (1927). Near-copies are resampled together. p: of "
    "the difference of auroc from the reference method, by DeLong's test with Student's t."
)
# Limits differ by less than .005 between seeds.
_RESAMPLES = 2000
# Resamples times memes per batch: arrays under a megabyte fit the processor's cache, which halves the time.
_CELLS = 200_000
# As in Guo et al. (2017).
_BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its 95 % confidence limits; None where undefined, as AUROC with one class only, or unknown."""

    point: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.point is None:
            return "n/a"
        if self.low is None or self.high is None:
            return f"{self.point:.3f}"
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def plain(self) -> dict[str, Any]:
        """JSON values: {"point", "interval": [low, high] or None}, the inverse of `read_estimate`."""
        return {"point": self.point, "interval": None if self.low is None else [self.low, self.high]}

    def contains(self, value: float) -> bool:
        """Whether `value` is within the interval; an undefined one contains everything."""
        return self.low is None or self.high is None or self.low <= value <= self.high


def read_estimate(plain: dict[str, Any]) -> Estimate:
    """The estimate that `Estimate.plain` wrote."""
    low, high = plain["interval"] or (None, None)
    return Estimate(plain["point"], low, high)


def measure(
    label: np.ndarray,
    probabilities: dict[str, np.ndarray],
    thresholds: dict[str, float],
    groups: np.ndarray,
    seed: int,
) -> dict[str, dict[str, Estimate]]:
    """{method: {metric: estimate}}: METRICS as in DEFINITION, on the same bootstrap resamples for all methods.

    label: (N,) of 0 and 1; probabilities: {method: (N,) in [0, 1]}; thresholds: {method: threshold}; groups: (N,), equal for
    near-duplicates. Raises ValueError for inconsistent shapes or names, or invalid probabilities.
    """
    if probabilities.keys() != thresholds.keys():
        raise ValueError(
            f"expected a threshold per method, got probabilities of {list(probabilities)} and thresholds of "
            f"{list(thresholds)}"
        )
    for method, probability in probabilities.items():
        check_probabilities(label, probability, method)
    judged = {name: _Judged(label, probability, thresholds[name]) for name, probability in probabilities.items()}
    point = {name: one.figures(np.ones((1, len(label))))[0] for name, one in judged.items()}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in judged}
    number = np.unique(groups, return_inverse=True)[1]
    for weights in _resamples(number, seed):
        for name, one in judged.items():
            draws[name].append(one.figures(weights))
    few = _rarer(label, number)

    def figures(name: str) -> dict[str, Estimate]:
        drawn = np.concatenate(draws[name]).T  # (METRICS, _RESAMPLES)
        found = {metric: _estimate(value, column, few) for metric, value, column in zip(METRICS, point[name], drawn)}
        found["auroc"] = auroc_estimate(label, probabilities[name], number)
        if found["accuracy"].point in (0, 1):
            found["accuracy"] = _wilson(float(found["accuracy"].point), int(number.max()) + 1)
        return found | {"ece": Estimate(found["ece"].point, None, None)}

    return {name: figures(name) for name in judged}


def auroc_estimate(label: np.ndarray, score: np.ndarray, groups: np.ndarray) -> Estimate:
    """AUROC of (N,) scores with its 95 % interval, undefined with one class only; groups: (N,), equal for near-duplicates."""
    if len(np.unique(label)) < 2:
        return Estimate(None, None, None)
    return Estimate(auroc(label, score), *auroc_interval(label, score, groups))


def share(hit: np.ndarray) -> Estimate:
    """Share of True among (N,) booleans with Wilson's 95 % interval (1927), valid at 0 and 1; undefined for N = 0."""
    return _wilson(float(hit.mean()), len(hit)) if len(hit) else Estimate(None, None, None)


def rates(positives: Any, negatives: Any, hits: Any, alarms: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy, F1 of the class offensive and F1 of the other class, each (R,), from counts (R,).

    positives, negatives: memes of each class; hits, alarms: true and false positives. F1 is 0 where a class is neither present
    nor predicted.
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
    """One method's predictions as sums over memes, so that metrics under many weightings are matrix products."""

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
        """(R, N) weights of the memes -> (R, 8) METRICS; NaN where undefined."""
        sums = weights @ self._sums
        positives, negatives, hits, alarms, error = sums[:, :5].T
        rows = positives + negatives
        accuracy, offensive, other = rates(positives, negatives, hits, alarms)
        weighted = (positives * offensive + negatives * other) / rows
        ece = np.abs(sums[:, 5:]).sum(axis=1) / rows
        ranking = self._ranking(weights)
        return np.column_stack(
            (
                accuracy,
                offensive,
                (offensive + other) / 2,
                weighted,
                *ranking,
                error / rows,
                ece,
            )  # in the order of METRICS
        )

    def _ranking(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R, N) weights -> (R,) AUROC and (R,) average precision; NaN where a class has no weight."""
        every = np.take(weights, self._order, axis=1)  # from the highest probability down
        positive = every * self._positive
        if len(self._starts) < every.shape[1]:
            every = np.add.reduceat(every, self._starts, axis=1)  # (R, groups)
            positive = np.add.reduceat(positive, self._starts, axis=1)
        hits, called = np.cumsum(positive, axis=1), np.cumsum(every, axis=1)
        positives = hits[:, -1].astype(np.float64)  # the product below exceeds float32's integers
        pairs = positives * (called[:, -1] - positives)
        wins = np.einsum("rn,rn->r", every - positive, hits - positive / 2)
        precision = hits / np.maximum(called, 1)
        found = np.einsum("rn,rn->r", positive, precision)
        return _ratio(wins, pairs, np.nan), np.where(pairs > 0, _ratio(found, positives), np.nan)


def _ratio(part: np.ndarray, whole: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole > 0)


def _rarer(label: np.ndarray, number: np.ndarray) -> int:
    """Effective sample size of two-class metrics: groups of the rarer class, of all memes if there is one class, at least 2."""
    counts = [len(np.unique(number[label == value])) for value in (0, 1)]
    return max(2, min(counts) or max(counts))


def _tail(few: int) -> float:
    """Percentile of the lower limit: 2.5 for many groups, less for few.

    Expanded percentiles (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015): corrects the bootstrap's variance
    by n / (n - 1), and its normal quantile to Student's t.
    """
    return 100 * float(ndtr(stdtrit(few - 1, 0.025) * np.sqrt(few / (few - 1))))


def _estimate(point: float, drawn: np.ndarray, few: int) -> Estimate:
    """A metric's percentile interval from its (R,) resampled values; NaN are left out."""
    if np.isnan(point):
        return Estimate(None, None, None)
    if point in (0, 1):  # resamples do not vary
        return _wilson(float(point), few)
    tail = _tail(few)
    low, high = np.percentile(drawn[~np.isnan(drawn)], (tail, 100 - tail))
    return Estimate(float(point), float(min(low, point)), float(max(high, point)))


def _wilson(point: float, count: int) -> Estimate:
    # scipy.stats has it too, but its import takes a tenth of the server's start
    z = float(ndtri(0.975))
    middle, half = point + z * z / (2 * count), z * np.sqrt(point * (1 - point) / count + z * z / (4 * count * count))
    low, high = ((middle + side * half) / (1 + z * z / count) for side in (-1, 1))
    # exact at the ends, where the formula has rounding errors
    return Estimate(point, float(low) if point > 0 else 0.0, float(high) if point < 1 else 1.0)


def _resamples(number: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields bootstrap counts of the memes, (R, N) float32, _RESAMPLES rows in all; number: (N,) group of each meme, from 0;
    groups are drawn whole."""
    generator, rows = np.random.default_rng(seed), int(number.max()) + 1
    batch_size = max(1, _CELLS // len(number))
    for start in range(0, _RESAMPLES, batch_size):
        count = min(batch_size, _RESAMPLES - start)
        drawn = generator.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        # float32 holds counts exactly
        yield times[:, number].astype(np.float32)
