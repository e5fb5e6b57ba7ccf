"""Flagged and missed memes and costs per 1,000 memes, at any prevalence of offensive memes.

Computed from the true- and false-positive rates of the evaluated memes, which do not depend on the prevalence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from head.judge.metrics import Estimate, share

_THOUSAND = 1000
# Costs that differ by less are equal.
_EQUAL = 1e-9
# Prevalences shown beside the given one.
_SHARES = (0.01, 0.05, 0.2, 0.5)


@dataclass(frozen=True)
class CostModel:
    """prevalence: share of offensive memes, None for that of the evaluated memes; miss: cost of a false negative; alarm:
    cost of a false positive. Raises ValueError for values out of range."""

    prevalence: float | None = None
    miss: float = 1.0
    alarm: float = 1.0

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence: expected a share above 0 and below 1, got {self.prevalence}")
        for name in ("miss", "alarm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a cost above 0, got {getattr(self, name)}")


def threshold_metrics(label: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, Estimate]:
    """Recall, precision and share of flagged memes at a threshold, with Wilson's intervals; label, probability: (N,)."""
    called = probability >= threshold
    return {"recall": share(called[label == 1]), "precision": share(label[called] == 1), "flagged": share(called)}


def per_thousand(
    label: np.ndarray, probability: np.ndarray, threshold: float, cost_model: CostModel
) -> list[dict[str, Any]]:
    """For each prevalence, the given one first: flagged, wrongly flagged and missed of 1,000 memes, and the precision."""
    called = probability >= threshold
    recall, alarms = called[label == 1].mean(), called[label == 0].mean()
    own = cost_model.prevalence or float(label.mean())
    rows = []
    for prevalence in (own, *(one for one in _SHARES if one != own)):
        hits, wrong = _THOUSAND * prevalence * recall, _THOUSAND * (1 - prevalence) * alarms
        rows.append(
            {
                "prevalence": prevalence,
                "flagged": hits + wrong,
                "wrong": wrong,
                "missed": _THOUSAND * prevalence - hits,
                "precision": hits / (hits + wrong) if hits + wrong else None,
            }
        )
    return rows


def cost_curve(label: np.ndarray, probability: np.ndarray, cost_model: CostModel) -> tuple[np.ndarray, np.ndarray]:
    """(T,) thresholds, rising from 0 to 1, and the (T,) costs of 1,000 memes at each."""
    thresholds = np.unique(np.concatenate(([0.0], probability, [1.0])))
    offensive, others = np.sort(probability[label == 1]), np.sort(probability[label == 0])
    missed = np.searchsorted(offensive, thresholds) / len(offensive)
    alarms = 1 - np.searchsorted(others, thresholds) / len(others)
    prevalence = cost_model.prevalence or float(label.mean())
    return thresholds, _THOUSAND * (
        prevalence * cost_model.miss * missed + (1 - prevalence) * cost_model.alarm * alarms
    )


def costs(label: np.ndarray, probability: np.ndarray, threshold: float, cost_model: CostModel) -> dict[str, float]:
    """Costs of 1,000 memes at the chosen threshold, at the cheapest (at), and with none or all flagged."""
    thresholds, curve = cost_curve(label, probability, cost_model)
    prevalence, cheapest = cost_model.prevalence or float(label.mean()), np.flatnonzero(curve <= curve.min() + _EQUAL)
    best = cheapest[np.argmin(np.abs(thresholds[cheapest] - threshold))]  # of equal ones the nearest to the chosen
    return {
        "chosen": float(curve[np.searchsorted(thresholds, threshold)]),
        "cheapest": float(curve[best]),
        "at": float(thresholds[best]),
        "none": _THOUSAND * prevalence * cost_model.miss,
        "all": _THOUSAND * (1 - prevalence) * cost_model.alarm,
    }
