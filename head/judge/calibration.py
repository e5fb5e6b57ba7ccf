"""Turns a method's logits into probabilities that can be believed, without changing their ranking.

`head.judge.fit_calibration` fits it; the server only applies it, and must not wait for scipy.optimize to be imported.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TEMPERATURE, PLATT = "temperature", "platt"


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(slope * logit + offset). Temperature scaling has no offset: slope = 1 / temperature."""

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
        """(N,) logits -> (N,) probabilities, in double precision so that few of them become exactly 0 or 1."""
        return expit(self.slope * np.asarray(logits, dtype=np.float64) + self.offset)
