"""The numbers behind the report's plots: curves over every threshold, reliability, the confusion matrix.

Works on labels and probabilities; draws nothing and knows no method's name. `report.page` and `report.charts` use it.
"""

import numpy as np

from head.judge.metrics import rates, share

# Memes in a bin of the reliability plot: with fewer, its bars say nothing.
_BIN_MEMES = 15
_MOST_BINS = 10


def both_classes(label: np.ndarray) -> bool:
    """Whether (N,) labels hold both classes: without, there is nothing to rank."""
    return 0 < int(label.sum()) < len(label)


def roc(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of (N,) memes of both classes, from (0, 0) to (1, 1); tied memes move together."""
    _, hits, alarms = _steps(label, probability)
    return np.append(0, alarms) / alarms[-1], np.append(0, hits) / hits[-1]


def precision_recall(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of (N,) memes of both classes at each distinct probability, from the highest down."""
    _, hits, alarms = _steps(label, probability)
    return hits / hits[-1], hits / (hits + alarms)


def threshold_figures(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each distinct probability as a threshold, rising, and precision, recall, F1 and macro-F1 there.

    (N,) memes of both classes. A value holds for thresholds down to the next lower one, that one excluded.
    """
    thresholds, hits, alarms = _steps(label, probability)
    positives = np.full(len(hits), hits[-1])
    _, f1, other = rates(positives, len(label) - positives, hits, alarms)
    figures = {
        "precision": hits / (hits + alarms),
        "recall": hits / hits[-1],
        "F1 of offensive": f1,
        "macro-F1": (f1 + other) / 2,
    }
    return thresholds[::-1], {name: values[::-1] for name, values in figures.items()}


def reliability(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of equal numbers of memes: mean probability (B,), share of offensive memes (B,), its 95 % limits (2, B)."""
    bins = np.array_split(np.argsort(probability, kind="stable"), max(1, min(_MOST_BINS, len(label) // _BIN_MEMES)))
    shares = [share(label[rows] == 1) for rows in bins]
    limits = np.array([[estimate.low for estimate in shares], [estimate.high for estimate in shares]])
    return np.array([probability[rows].mean() for rows in bins]), np.array([e.point for e in shares]), limits


def confusion(
    label: np.ndarray, probability: np.ndarray, threshold: float, band: tuple[float, float] | None
) -> dict[int, tuple[int, int, int]]:
    """{label: memes called offensive, sent to review, called non-offensive}, the offensive ones first.

    A meme is called offensive from the threshold up; one in the band [low, high) is sent to review.
    """
    unsure = np.zeros(len(label), bool) if band is None else (probability >= band[0]) & (probability < band[1])
    called = probability >= threshold
    return {
        value: (
            int((called & ~unsure & (label == value)).sum()),
            int((unsure & (label == value)).sum()),
            int((~called & ~unsure & (label == value)).sum()),
        )
        for value in (1, 0)
    }


def _steps(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct probabilities, falling, and how many offensive and other memes have at least that much."""
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))
    return probability[order][ends], np.cumsum(label[order])[ends], np.cumsum(1 - label[order])[ends]
