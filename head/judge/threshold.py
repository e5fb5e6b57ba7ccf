"""The threshold from which a meme is called offensive, and the review band around it that is left to people.

Both are chosen on cross-fitted probabilities.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, expit, logit

from head.judge.metrics import Estimate, check_probabilities, rates
from head.judge.metrics import share as share_of

OBJECTIVES = ("macro-f1", "f1", "accuracy", "precision", "recall")
_WITH_TARGET = ("precision", "recall")
# Least number of memes called offensive at a threshold whose precision is tested.
_FEWEST_CALLS = 10
# Larger multiples of the data set are not suggested.
_MOST_TIMES = 1000
# Scores that differ by less are equal up to rounding.
_ROUNDING = 1e-12
# Probabilities are clipped to this distance from 0 and 1, where logits are infinite or dominated by rounding.
_CERTAIN = 1e-9
# Logit distances that differ by less are tied. Half of it at a probability of _CERTAIN is several float64 steps, so that a
# border between two distances also separates the probabilities.
_TIED = 1e-6


class Unreachable(ValueError):
    """No threshold guarantees the requested precision or recall on new memes."""


@dataclass(frozen=True)
class Aim:
    """Objective of the threshold: the highest macro-F1, F1 of the class offensive or accuracy; or a precision or recall of the
    class offensive of at least `target` on new memes, with this one-sided confidence. Raises ValueError for values out of
    range."""

    objective: str = "macro-f1"
    target: float | None = None
    confidence: float = (
        0.8  # in one of five sets the target is missed; in half of them where the sample alone must reach it
    )

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.objective not in _WITH_TARGET and self.target is not None:
            raise ValueError(f"target: expected none for the objective {self.objective}, got {self.target}")
        if self.objective in _WITH_TARGET and (self.target is None or not 0 < self.target <= 1):
            raise ValueError(
                f"target: expected a number above 0 and up to 1 for the objective {self.objective}, got {self.target}"
            )
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence: expected a number from 0.5 to below 1, got {self.confidence}")


@dataclass(frozen=True)
class Band:
    """Review band: probabilities in [low, high). coverage: share of memes outside; error: error rate outside."""

    low: float
    high: float
    coverage: float
    error: Estimate


def aim_of(config: dict[str, Any]) -> Aim:
    """The aim of a bundle's config.json; older ones have no confidence."""
    return Aim(**config["aim"])


def aim_words(aim: dict[str, Any]) -> str:
    """An aim, as `dataclasses.asdict` gives it, in words; older bundles' aims have no confidence."""
    if aim["target"] is None:
        return f"the highest {aim['objective'].replace('f1', 'F1')}"
    sure = f", with {aim['confidence']:.0%} confidence" if "confidence" in aim else ""
    return f"a {aim['objective']} of at least {aim['target']:g}{sure}"


def choose_threshold(label: np.ndarray, probability: np.ndarray, aim: Aim) -> float:
    """The threshold for `aim`; label: (N,) of 0 and 1, probability: (N,). A meme at the threshold is called offensive.

    Candidates are 0, 1 and the mid-points of neighbouring distinct probabilities. For macro-f1, f1 and accuracy the best,
    the one nearest to 0.5 of equals; for recall the highest, for precision the lowest that is guaranteed on new memes. For
    f1 and a weak ranking the threshold can be 0. Raises Unreachable where nothing is guaranteed, with the target and the
    number of memes that would be feasible; ValueError for invalid probabilities.
    """
    check_probabilities(label, probability)
    order = np.argsort(probability, kind="stable")
    distinct = np.unique(probability)
    candidates = np.concatenate(([0.0], (distinct[:-1] + distinct[1:]) / 2, [1.0]))
    quiet = np.searchsorted(probability[order], candidates)  # memes that each candidate calls non-offensive
    offensive = np.concatenate(([0], np.cumsum(label[order])))  # among the first k memes
    hits, called = offensive[-1] - offensive[quiet], len(label) - quiet
    if aim.target is not None and aim.objective == "recall":
        return float(candidates[_recalling(hits, aim.target, aim.confidence)])
    if aim.target is not None:
        return float(candidates[_precise(hits, called, aim.target, aim.confidence)])
    positives = np.full(len(candidates), offensive[-1])
    accuracy, f1, other_f1 = rates(positives, len(label) - positives, hits, called - hits)
    score = {"accuracy": accuracy, "f1": f1, "macro-f1": (f1 + other_f1) / 2}[aim.objective]
    equals = candidates[score >= score.max() - _ROUNDING]
    return float(equals[np.argmin(np.abs(equals - 0.5))])


def _recalling(hits: np.ndarray, target: float, confidence: float) -> int:
    """Index of the highest of (C,) candidates whose recall on new memes is at least the target; hits: (C,) true positives,
    non-increasing.

    Distribution-free tolerance limit (Wilks, "Determination of sample sizes for setting tolerance limits", 1941): the share of
    offensive memes below the r-th lowest of K has the Beta(r, K + 1 - r) distribution, so the number of misses allowed
    follows from K alone.
    """
    positives = int(hits[0])
    allowed = bisect_right(range(positives), 1 - confidence, key=lambda misses: bdtr(misses, positives, 1 - target)) - 1
    if allowed < 0:
        best = (1 - confidence) ** (1 / positives) if positives else 0.0
        needed = math.ceil(math.log(1 - confidence) / math.log(target)) if target < 1 else None
        more = f"{target:g} takes {needed} of them" if needed else "no number of them guarantees a recall of 1"
        raise Unreachable(
            f"recall {target:g}: {positives} labelled offensive memes guarantee a recall of {best:.3f} at most, with "
            f"{confidence:.0%} confidence; {more}"
        )
    return int(np.flatnonzero(hits >= positives - allowed)[-1])


def _precise(hits: np.ndarray, called: np.ndarray, target: float, confidence: float) -> int:
    """Index of the lowest of (C,) candidates whose precision on new memes is at least the target; hits, called: (C,) true
    positives and memes called offensive, non-increasing.

    Fixed-sequence binomial tests (Angelopoulos et al., "Learn then Test", 2021): from each of a few starts towards lower
    thresholds until one fails, with the error divided among the starts, which controls for multiple testing.
    """
    starts = _halves(called)
    error = (1 - confidence) / max(1, len(starts))
    passing = bdtrc(hits - 1, called, target) <= error
    failing = np.flatnonzero(~passing)
    reached = [int(np.append(-1, failing[failing < start])[-1]) + 1 for start in starts if passing[start]]
    if not reached:
        raise Unreachable(
            f"precision {target:g}: {_guaranteed(hits[starts], called[starts], target, confidence, called[0])}"
        )
    return min(reached)


def _halves(called: np.ndarray) -> list[int]:
    """Indices of the candidates that call all memes offensive, half of them, a quarter, ..., down to _FEWEST_CALLS."""
    places, wanted = [], int(called[0])
    while wanted >= _FEWEST_CALLS:
        places.append(int(np.flatnonzero(called >= wanted)[-1]))
        wanted //= 2
    return sorted(set(places))


def _guaranteed(hits: np.ndarray, called: np.ndarray, target: float, confidence: float, memes: int) -> str:
    """The precision that these candidates guarantee, and the number of memes that the target would take, in words."""
    if not hits.any():
        return (
            f"{memes} memes guarantee none: at least {_FEWEST_CALLS} must be called offensive, some of them correctly"
        )
    error = (1 - confidence) / len(hits)
    bounds = _lowest(hits, called, error)
    best = int(np.argmax(bounds))
    guaranteed = (
        f"{memes} labelled memes guarantee a precision of {bounds[best]:.3f} at most, with {confidence:.0%} confidence, "
        f"at a threshold that calls {called[best]} offensive, with an observed precision of {hits[best] / called[best]:.3f}"
    )
    times = np.geomspace(1, _MOST_TIMES, 200)
    enough = times[_lowest(hits[best] * times, called[best] * times, error) >= target]
    return f"{guaranteed}; {target:g} takes " + (
        f"some {memes * enough[0]:,.0f}" if len(enough) else "a method that ranks better"
    )


def _lowest(hits: np.ndarray, called: np.ndarray, error: float) -> np.ndarray:
    """One-sided lower confidence bounds of hits / called (Clopper and Pearson, 1934)."""
    return np.where(hits > 0, betaincinv(np.maximum(hits, 1), called - hits + 1, error), 0.0)


def review_band(label: np.ndarray, probability: np.ndarray, threshold: float, share: float) -> Band:
    """The band that contains the `share`, above 0 and below 1, of (N,) memes nearest to the threshold.

    Symmetric in logits. Memes at the same distance are inside or outside together, whichever is nearer to the share; so the
    band may be empty, low = high = threshold. A probability of exactly 1 is never inside. Raises ValueError for a share out
    of range or invalid probabilities.
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
    """Share of (N,) memes outside [low, high), and the error rate among these with its 95 % interval."""
    check_probabilities(label, probability)
    if not 0 <= low <= threshold <= high <= 1:
        raise ValueError(f"expected 0 <= low <= threshold <= high <= 1, got {low}, {threshold} and {high}")
    answered = (probability < low) | (probability >= high)
    wrong = (probability >= threshold) != (label == 1)
    return float(answered.mean()), share_of(wrong[answered])


def _half_width(distances: np.ndarray, wanted: float) -> float:
    """Mid-point of two neighbours of the sorted (N,) distances, with about `wanted` below it; 0 for none."""
    if not len(distances):
        return 0.0
    cuts = np.concatenate(([0], np.flatnonzero(np.diff(distances) > _TIED) + 1, [len(distances)]))
    cut = int(cuts[np.argmin(np.abs(cuts - wanted))])  # of equals the narrower band
    if cut == 0:
        return 0.0
    after = distances[cut] if cut < len(distances) else distances[-1] + _TIED
    return float(distances[cut - 1] + after) / 2


def _logit(probability: np.ndarray | float) -> np.ndarray:
    return logit(np.clip(np.asarray(probability, dtype=np.float64), _CERTAIN, 1 - _CERTAIN))
