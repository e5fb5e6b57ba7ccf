"""What a threshold means where it is used: flags, misses and costs per 1,000 memes at another share of offensive ones.

From the rates of the judged memes, which another share leaves as they are if each class's memes are of the same kind
there. `python -m report --prevalence 2% --miss 10 --alarm 1` asks for it; the page shows it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from head.judge.metrics import Estimate, share

_THOUSAND = 1000
# Costs that differ by less are equal up to rounding.
_EQUAL = 1e-9
# Shares of offensive memes that are shown beside the reader's own.
_SHARES = (0.01, 0.05, 0.2, 0.5)


@dataclass(frozen=True)
class Use:
    """prevalence: share of offensive memes where the model is used, None for that of the judged memes; miss, alarm: what an
    offensive meme that is not flagged costs, and another one that is. Raises ValueError."""

    prevalence: float | None = None
    miss: float = 1.0
    alarm: float = 1.0

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence: expected a share above 0 and below 1, got {self.prevalence}")
        for name in ("miss", "alarm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a cost above 0, got {getattr(self, name)}")


def aimed(label: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, Estimate]:
    """Recall, precision and the share of memes flagged, of (N,) memes at a threshold, with Wilson's intervals."""
    called = probability >= threshold
    return {"recall": share(called[label == 1]), "precision": share(label[called] == 1), "flagged": share(called)}


def per_thousand(label: np.ndarray, probability: np.ndarray, threshold: float, use: Use) -> list[dict[str, Any]]:
    """For each share of offensive memes, the reader's own first: flagged, wrongly flagged and missed of 1,000, precision."""
    called = probability >= threshold
    recall, alarms = called[label == 1].mean(), called[label == 0].mean()
    own = use.prevalence or float(label.mean())
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


def cost_curve(label: np.ndarray, probability: np.ndarray, use: Use) -> tuple[np.ndarray, np.ndarray]:
    """(T,) thresholds, rising from 0 to 1, and (T,) what 1,000 memes cost at each."""
    thresholds = np.unique(np.concatenate(([0.0], probability, [1.0])))
    offensive, others = np.sort(probability[label == 1]), np.sort(probability[label == 0])
    missed = np.searchsorted(offensive, thresholds) / len(offensive)
    alarms = 1 - np.searchsorted(others, thresholds) / len(others)
    prevalence = use.prevalence or float(label.mean())
    return thresholds, _THOUSAND * (prevalence * use.miss * missed + (1 - prevalence) * use.alarm * alarms)


def costs(label: np.ndarray, probability: np.ndarray, threshold: float, use: Use) -> dict[str, float]:
    """Per 1,000 memes: at the chosen threshold, at the cheapest and where that is, and with none or all flagged."""
    thresholds, curve = cost_curve(label, probability, use)
    prevalence, cheapest = use.prevalence or float(label.mean()), np.flatnonzero(curve <= curve.min() + _EQUAL)
    best = cheapest[np.argmin(np.abs(thresholds[cheapest] - threshold))]  # of equals the nearest to the chosen
    return {
        "chosen": float(curve[np.searchsorted(thresholds, threshold)]),
        "cheapest": float(curve[best]),
        "at": float(thresholds[best]),
        "none": _THOUSAND * prevalence * use.miss,
        "all": _THOUSAND * (1 - prevalence) * use.alarm,
    }
