"""From scores to probabilities and a threshold, in the same way for all methods, so that these are comparable."""

from dataclasses import dataclass

import numpy as np

from head.data.features import Features
from head.judge.calibration import Calibration
from head.judge.fit_calibration import fit_calibration
from head.judge.threshold import Aim, Unreachable, choose_threshold
from head.model.method import Method


@dataclass(frozen=True, eq=False)
class CalibratedMethod:
    """A method with its calibration and threshold, both chosen on cross-fitted scores.

    unreachable: why no threshold serves the aim, "" if one does; with none the threshold is 1.
    """

    method: Method
    calibration: Calibration
    threshold: float
    unreachable: str = ""

    @property
    def out_of_fold(self) -> np.ndarray:
        """(N,) cross-fitted probabilities of the memes tuned on; NaN for memes in no part."""
        return self.calibration(self.method.out_of_fold)

    def probability(self, features: Features) -> np.ndarray:
        """(N,) probabilities of "offensive"."""
        return self.calibration(self.method.score(features))


def calibrate_method(method: Method, label: np.ndarray, fold: np.ndarray, aim: Aim) -> CalibratedMethod:
    """Calibrate a method's scores and choose its threshold; label, fold: (N,)."""
    there = np.isfinite(method.out_of_fold)
    scores = method.out_of_fold[there]
    calibration = fit_calibration(scores, label[there], fold[there])
    try:
        return CalibratedMethod(method, calibration, choose_threshold(label[there], calibration(scores), aim))
    except Unreachable as error:
        return CalibratedMethod(method, calibration, 1.0, str(error))
