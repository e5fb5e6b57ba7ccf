"""What every method is to the others: scores of the memes tuned on, and a way to score new ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from head.data.features import Features
from head.model.ensemble import HeadEnsemble

# One answer for all memes, which every figure is to be read beside.
MAJORITY = "majority class"


@dataclass(frozen=True, eq=False)
class Method:
    """out_of_fold: (N,) float64 scores of the memes tuned on, each by members that have not seen it, NaN where there is
    none; score: Features of K memes -> (K,) float64, by all members; settings: what was chosen for it; ensemble: the
    heads that it is, where it is one and can be shipped."""

    out_of_fold: np.ndarray
    score: Callable[[Features], np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)
    ensemble: HeadEnsemble | None = None
