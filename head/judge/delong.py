"""AUROC: a confidence interval, and a test of the difference of two.

DeLong et al., "Comparing the areas under two or more correlated receiver operating characteristic curves" (1988), with
near-duplicates as clusters (Obuchowski, "Nonparametric analysis of clustered ROC curve data", 1997). With few memes of a
class normal quantiles are too narrow, hence Student's t with one degree of freedom less than the rarer class has groups.
Coverage is measured in `tests/head/judge/test_delong.py`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

_TAIL = 0.025


@dataclass(frozen=True)
class Difference:
    """AUROC of a first ranking minus that of a second one of the same memes, with its standard error and two-sided p-value."""

    value: float
    error: float
    p: float

    @property
    def lead(self) -> float:
        """The difference in units of its standard error; infinite for an error of 0."""
        if self.error > 0:
            return self.value / self.error
        return float(np.sign(self.value)) * np.inf if self.value else 0.0


def auroc_interval(label: np.ndarray, score: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % confidence limits of the AUROC of (N,) scores; label: (N,), with both classes; groups: (N,), equal for near-duplicates.

    On the logit scale, which stays within 0 and 1 and has better coverage near 1. A perfect ranking has variance 0: then
    the limits of Clopper and Pearson (1934), with as many trials as the rarer class has groups.
    """
    area, parts = _influence(label, score)
    few, error = _fewest(label, groups), _error(parts, groups)
    if error == 0 or not 0 < area < 1:
        limit = _TAIL ** (1 / few)
        return (area if area < 1 else limit, area if area > 0 else 1 - limit)
    half = float(stdtrit(max(1, few - 1), 1 - _TAIL)) * error / (area * (1 - area))
    return float(expit(logit(area) - half)), float(expit(logit(area) + half))


def auroc_difference(label: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> Difference:
    """DeLong's test of two (N,) scores of the same memes; groups: (N,), equal for near-duplicates. p is 1 if both rank equally
    or a class is missing."""
    if len(np.unique(label)) < 2:
        return Difference(0.0, 0.0, 1.0)
    (one, of_one), (other, of_other) = (_influence(label, score) for score in (first, second))
    found = Difference(one - other, _error(of_one - of_other, groups), 1.0)
    p = 2 * stdtr(max(1, _fewest(label, groups) - 1), -abs(found.lead)) if found.value else 1.0
    return Difference(found.value, found.error, float(p))


def _influence(label: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUROC, and the memes' influences (N,), whose squares sum to its variance."""
    ranks, parts, area = _ranks(score), np.empty(len(label)), 0.0
    for value in (0, 1):
        own = label == value
        count, others = int(own.sum()), int((~own).sum())
        below = (ranks[own] - _ranks(score[own])) / others  # the share of the other class, ties by half
        right = below if value else 1 - below
        area = float(right.mean())
        parts[own] = (right - area) / count * np.sqrt(count / max(1, count - 1))
    return area, parts


def _error(parts: np.ndarray, groups: np.ndarray) -> float:
    total = np.bincount(np.unique(groups, return_inverse=True)[1], parts)
    return float(np.sqrt(np.square(total).sum()))


def _fewest(label: np.ndarray, groups: np.ndarray) -> int:
    """Number of groups of the rarer class."""
    return min(len(np.unique(groups[label == value])) for value in (0, 1))


def _ranks(score: np.ndarray) -> np.ndarray:
    """(N,) ranks from 1, averaged over ties; as scipy.stats.rankdata, whose import would delay the server's start."""
    _, number, counts = np.unique(score, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[number]
