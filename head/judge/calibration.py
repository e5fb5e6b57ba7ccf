"""Calibration: a method's logits to probabilities, with the ranking unchanged.

Fitted in `head.judge.fit_calibration`, a separate module so that the server need not import scipy.optimize.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TEMPERATURE, PLATT = "temperature", "platt"


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(slope * logit + offset). Temperature scaling has offset 0 and slope 1 / temperature. Raises ValueError
    for values out of range."""

    kind: str
    slope: float
    offset: float

    def __post_init__(self) -> None:
        if self.kind not in (TEMPERATURE, PLATT):
            raise ValueError(f"kind: expected {TEMPERATURE!r} or {PLATT!r}, got {self.kind!r}")
        if not 0 < self.slope < np.inf:
            raise ValueError(f"slope: expected a finite number above 0, got {self.slope}")
        if not np.isfinite(self.offset) or (self.kind == TEMPERATURE and self.offset != 0):
            raise ValueError(f"offset: expected a finite number, 0 for {TEMPERATURE}, got {self.offset}")

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """(N,) logits -> (N,) float64 probabilities; in float32 more would be exactly 0 or 1."""
        return expit(self.slope * np.asarray(logits, dtype=np.float64) + self.offset)
