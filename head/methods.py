"""What every method is to the others: scores of the memes tuned on, and a way to score new ones.

Probabilities, thresholds and figures are made from scores in one way for all, so that methods differ in nothing else.
`head.procedure` makes the methods, `head.evaluate` compares them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from head.calibrating import fit_calibration
from head.calibration import Calibration
from head.data import Features
from head.ensemble import HeadEnsemble
from head.threshold import Aim, Unreachable, choose_threshold


@dataclass(frozen=True, eq=False)
class Method:
    """out_of_fold: (N,) float64 scores of the memes tuned on, each by members that have not seen it, NaN where there is
    none; score: Features of K memes -> (K,) float64, by all members; settings: what was chosen for it; ensemble: the
    heads that it is, where it is one and can be shipped."""

    out_of_fold: np.ndarray
    score: Callable[[Features], np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)
    ensemble: HeadEnsemble | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """A method, its scores made probabilities, and a threshold for them; both from out-of-fold scores alone.

    unreachable: why no threshold serves the aim, "" where one does; then nothing is called offensive.
    """

    method: Method
    calibration: Calibration
    threshold: float
    unreachable: str = ""

    @property
    def out_of_fold(self) -> np.ndarray:
        """(N,) probabilities of the memes tuned on; NaN where no member held a meme out."""
        return self.calibration(self.method.out_of_fold)

    def probability(self, features: Features) -> np.ndarray:
        """(N,) probabilities that memes are offensive."""
        return self.calibration(self.method.score(features))


def judge(method: Method, label: np.ndarray, fold: np.ndarray, aim: Aim) -> Judged:
    """Calibrate a method's scores and choose its threshold; label and fold: (N,).

    A method that no threshold brings to the wanted precision calls nothing offensive.
    """
    there = np.isfinite(method.out_of_fold)
    scores = method.out_of_fold[there]
    calibration = fit_calibration(scores, label[there], fold[there])
    try:
        return Judged(method, calibration, choose_threshold(label[there], calibration(scores), aim))
    except Unreachable as error:
        return Judged(method, calibration, 1.0, str(error))
