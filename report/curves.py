"""Reliability bins and confusion matrix of labels and probabilities; `head.judge.curves` has the other curves."""

import numpy as np

from head.judge.metrics import share

# Fewest memes in a bin: with fewer the interval is too wide to be of use.
_BIN_MEMES = 15
_MOST_BINS = 10


def both_classes(label: np.ndarray) -> bool:
    """Whether (N,) labels of 0 and 1 hold both classes; with one only, no ranking metric is defined."""
    return 0 < int(label.sum()) < len(label)


def reliability(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B bins of equal numbers of memes, from (N,) labels and probabilities.

    Returns (B,) mean probability, (B,) share of offensive memes, (2, B) its 95 % interval (Wilson).
    """
    bins = np.array_split(np.argsort(probability, kind="stable"), max(1, min(_MOST_BINS, len(label) // _BIN_MEMES)))
    shares = [share(label[rows] == 1) for rows in bins]
    limits = np.array([[estimate.low for estimate in shares], [estimate.high for estimate in shares]])
    return np.array([probability[rows].mean() for rows in bins]), np.array([e.point for e in shares]), limits


def confusion(
    label: np.ndarray, probability: np.ndarray, threshold: float, band: tuple[float, float] | None
) -> dict[int, tuple[int, int, int]]:
    """{label: (predicted offensive, left to review, predicted non-offensive)} of (N,) memes, label 1 first.

    Predicted offensive: probability >= threshold. band: [low, high), left to review; None for no review.
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
