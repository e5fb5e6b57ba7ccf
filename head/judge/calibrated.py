"""From scores to probabilities and a threshold, in one way for all methods.

Probabilities, thresholds and figures are made from scores in one way for all, so that methods differ in nothing else.
`head.pipeline` makes the methods, `head.bundle.evaluation` compares them.
"""

from dataclasses import dataclass

import numpy as np

from head.data.features import Features
from head.judge.calibration import Calibration
from head.judge.fit_calibration import fit_calibration
from head.judge.threshold import Aim, Unreachable, choose_threshold
from head.model.method import Method


@dataclass(frozen=True, eq=False)
class CalibratedMethod:
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


def calibrate_method(method: Method, label: np.ndarray, fold: np.ndarray, aim: Aim) -> CalibratedMethod:
    """Calibrate a method's scores and choose its threshold; label and fold: (N,).

    A method that no threshold brings to the wanted precision calls nothing offensive.
    """
    there = np.isfinite(method.out_of_fold)
    scores = method.out_of_fold[there]
    calibration = fit_calibration(scores, label[there], fold[there])
    try:
        return CalibratedMethod(method, calibration, choose_threshold(label[there], calibration(scores), aim))
    except Unreachable as error:
        return CalibratedMethod(method, calibration, 1.0, str(error))
