"""The interface of all methods: out-of-fold scores, and a function that scores new memes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from head.data.features import Features
from head.model.ensemble import HeadEnsemble

# The baseline that gives all memes one label.
MAJORITY = "majority class"


@dataclass(frozen=True, eq=False)
class Method:
    """out_of_fold: (N,) float64 scores of the memes tuned on, each by members not trained on it, NaN where there is none; score:
    Features of K memes -> (K,) float64, by all members; settings: chosen in fitting; ensemble: the method's heads, None
    where it cannot ship."""

    out_of_fold: np.ndarray
    score: Callable[[Features], np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)
    ensemble: HeadEnsemble | None = None
