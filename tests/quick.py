"""Tuning in a second, for tests that are about what surrounds it and not about what it finds."""

import numpy as np
import pytest

from head.candidates import forest, regression
from head.data import folds
from head.judge import metrics
from head.search import space, study


def quick_tuning(patch: pytest.MonkeyPatch, widths: tuple[int, ...] = (8,), importances: bool = False) -> None:
    """Narrow heads, fifteen epochs, few parts, penalties, trees and resamples."""
    patch.setattr(folds, "_PARTS", 2)
    patch.setattr(space, "_WIDTHS", widths)
    patch.setattr(space, "_EPOCHS", 15)
    patch.setattr(space, "_MOST_EPOCHS", 15)
    patch.setattr(regression, "_PENALTIES", np.array([0.01, 1.0]))
    patch.setattr(forest, "_TREES", 5)
    patch.setattr(metrics, "_RESAMPLES", 100)
    if not importances:
        patch.setattr(study, "_importances", lambda *_: {})
