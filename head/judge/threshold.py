"""The probability from which on a meme is called offensive, and the band around it that is left to a person.

Both are chosen on labels and probabilities of memes that no weight was fitted on; does not know which method made
them. `python -m head tune` chooses, `python -m report` measures the band on other memes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from head.judge.metrics import Estimate, check_probabilities, rates
from head.judge.metrics import share as share_of

OBJECTIVES = ("macro-f1", "f1", "accuracy", "precision", "recall")
_WITH_TARGET = ("precision", "recall")
# Two roundings of one fraction are equal.
_ROUNDING = 1e-12
# Probabilities nearer to 0 or 1 than this count as at it: their logits would be infinite or mere rounding.
_CERTAIN = 1e-9
# Logit distances that differ by less than this count as tied. At a probability of _CERTAIN half of it is still
# several steps of double precision, so that a border between two distances separates the probabilities too.
_TIED = 1e-6


class Unreachable(ValueError):
    """No threshold has the precision or recall that was asked for."""


@dataclass(frozen=True)
class Aim:
    """What the threshold is chosen for: the highest macro-F1, F1 of the class offensive or accuracy, or at least
    `target` precision or recall of the class offensive."""

    objective: str = "macro-f1"
    target: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.objective not in _WITH_TARGET and self.target is not None:
            raise ValueError(f"target: expected none for the objective {self.objective}, got {self.target}")
        if self.objective in _WITH_TARGET and (self.target is None or not 0 < self.target <= 1):
            raise ValueError(
                f"target: expected a number above 0 and up to 1 for the objective {self.objective}, got {self.target}"
            )


@dataclass(frozen=True)
class Band:
    """Probabilities in [low, high) are left to a person. coverage: share of memes outside; error: share wrong among
    these."""

    low: float
    high: float
    coverage: float
    error: Estimate


def choose_threshold(label: np.ndarray, probability: np.ndarray, aim: Aim) -> float:
    """The threshold that serves `aim` on (N,) memes with labels 0 and 1; a meme at it is called offensive.

    Candidates are 0, 1 and the mid-points between neighbouring distinct probabilities. For macro-f1, f1 and accuracy
    the best, among equals the one nearest to 0.5; for recall the highest that reaches the target; for precision the
    lowest that does and calls at least one meme. Where a method barely ranks, the best f1 is that of calling every meme
    offensive, and the threshold 0. Raises Unreachable where no threshold reaches the target, as without offensive memes.
    """
    check_probabilities(label, probability)
    order = np.argsort(probability, kind="stable")
    distinct = np.unique(probability)
    candidates = np.concatenate(([0.0], (distinct[:-1] + distinct[1:]) / 2, [1.0]))
    quiet = np.searchsorted(probability[order], candidates)  # memes that each candidate calls non-offensive
    offensive = np.concatenate(([0], np.cumsum(label[order])))  # among the first k memes
    hits, called = offensive[-1] - offensive[quiet], len(label) - quiet
    if aim.target is not None:
        recall, precision = hits / max(1, offensive[-1]), hits / np.maximum(called, 1)  # 0 where nothing is called
        if aim.objective == "recall":
            return _reaching(candidates[::-1], recall[::-1], aim.objective, aim.target)
        return _reaching(candidates, precision, aim.objective, aim.target)
    positives = np.full(len(candidates), offensive[-1])
    accuracy, f1, other_f1 = rates(positives, len(label) - positives, hits, called - hits)
    score = {"accuracy": accuracy, "f1": f1, "macro-f1": (f1 + other_f1) / 2}[aim.objective]
    equals = candidates[score >= score.max() - _ROUNDING]
    return float(equals[np.argmin(np.abs(equals - 0.5))])


def _reaching(candidates: np.ndarray, merit: np.ndarray, objective: str, target: float) -> float:
    """The first of (C,) candidates whose precision or recall reaches the target."""
    reaching = candidates[merit >= target]
    if not len(reaching):
        raise Unreachable(f"{objective} {target}: the best that any threshold reaches is {merit.max():.3f}")
    return float(reaching[0])


def review_band(label: np.ndarray, probability: np.ndarray, threshold: float, share: float) -> Band:
    """The band that leaves to a person the `share`, above 0 and below 1, of (N,) memes nearest to the threshold.

    Near is meant in logits, so the band is as wide on either side. Memes at the same distance are left or answered
    together, whichever comes nearer to the share; the band may so be empty, low = high = threshold. A probability of
    exactly 1 is never left: no band [low, high) within [0, 1] holds it.
    """
    check_probabilities(label, probability)
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number above 0 and below 1, got {share}")
    centre = float(_logit(threshold))
    low, high = threshold, threshold
    width = _half_width(np.sort(np.abs(_logit(probability[probability < 1]) - centre)), share * len(probability))
    if width > 0:
        end = float(logit(1 - _CERTAIN))
        low = 0.0 if centre - width < -end else min(low, float(expit(centre - width)))
        high = 1.0 if centre + width > end else max(high, float(expit(centre + width)))
    return Band(low, high, *measure_band(label, probability, threshold, low, high))


def measure_band(
    label: np.ndarray, probability: np.ndarray, threshold: float, low: float, high: float
) -> tuple[float, Estimate]:
    """Share of (N,) memes outside [low, high), and the share called wrongly among these with its 95 % interval."""
    check_probabilities(label, probability)
    if not 0 <= low <= threshold <= high <= 1:
        raise ValueError(f"expected 0 <= low <= threshold <= high <= 1, got {low}, {threshold} and {high}")
    answered = (probability < low) | (probability >= high)
    wrong = (probability >= threshold) != (label == 1)
    return float(answered.mean()), share_of(wrong[answered])


def _half_width(distances: np.ndarray, wanted: float) -> float:
    """Half-way between two neighbours of the rising (N,) distances so that about `wanted` lie below; 0 for none."""
    if not len(distances):
        return 0.0
    cuts = np.concatenate(([0], np.flatnonzero(np.diff(distances) > _TIED) + 1, [len(distances)]))
    cut = int(cuts[np.argmin(np.abs(cuts - wanted))])  # the first of equals leaves fewer
    if cut == 0:
        return 0.0
    after = distances[cut] if cut < len(distances) else distances[-1] + _TIED
    return float(distances[cut - 1] + after) / 2


def _logit(probability: np.ndarray | float) -> np.ndarray:
    return logit(np.clip(np.asarray(probability, dtype=np.float64), _CERTAIN, 1 - _CERTAIN))
