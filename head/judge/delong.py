"""Areas under ROC curves with what is known of them: an interval for one, a test of the difference of two.

DeLong et al., "Comparing the areas under two or more correlated receiver operating characteristic curves" (1988), with
copies of a meme summed before they are squared, as Obuchowski, "Nonparametric analysis of clustered ROC curve data"
(1997). With few memes of a class a normal distribution promises too much, hence Student's t with a degree of freedom
less than the rarer class has groups. Measured in `tests/head/judge/test_delong.py`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

_TAIL = 0.025


@dataclass(frozen=True)
class Difference:
    """Of the AUROC of two rankings of the same memes: the first less the second, its standard error, and the two-sided p."""

    value: float
    error: float
    p: float

    @property
    def lead(self) -> float:
        """The difference in standard errors."""
        if self.error > 0:
            return self.value / self.error
        return float(np.sign(self.value)) * np.inf if self.value else 0.0


def auroc_interval(label: np.ndarray, score: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The 95 % limits of the AUROC of (N,) scores of memes of both classes; groups: (N,), equal for copies.

    On the logit scale, which keeps them within 0 and 1 and holds near 1. Where all are told apart nothing is seen to
    vary: then the limits of Clopper and Pearson (1934) for as many successes as the rarer class has groups.
    """
    area, parts = _influence(label, score)
    few, error = _fewest(label, groups), _error(parts, groups)
    if error == 0 or not 0 < area < 1:
        open_end = _TAIL ** (1 / few)
        return (area if area < 1 else open_end, area if area > 0 else 1 - open_end)
    reach = float(stdtrit(max(1, few - 1), 1 - _TAIL)) * error / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))


def auroc_difference(label: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> Difference:
    """Of two (N,) scores of the same memes; groups: (N,), equal for copies. A p of 1 where both rank alike or a class is
    missing."""
    if len(np.unique(label)) < 2:
        return Difference(0.0, 0.0, 1.0)
    (one, of_one), (other, of_other) = (_influence(label, score) for score in (first, second))
    found = Difference(one - other, _error(of_one - of_other, groups), 1.0)
    p = 2 * stdtr(max(1, _fewest(label, groups) - 1), -abs(found.lead)) if found.value else 1.0
    return Difference(found.value, found.error, float(p))


def _influence(label: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUROC, and (N,) how far each meme moves it: the squares of these sum to its variance."""
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
    """Groups of the rarer class."""
    return min(len(np.unique(groups[label == value])) for value in (0, 1))


def _ranks(score: np.ndarray) -> np.ndarray:
    """(N,) from 1, the mean for ties. As scipy.stats has it, which takes long to import for a server that waits."""
    _, number, counts = np.unique(score, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[number]
