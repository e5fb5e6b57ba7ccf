"""ROC, precision-recall and threshold curves of probabilities, by scikit-learn. `report` draws them."""

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from head.judge.metrics import rates


def roc(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T + 1,) false and true positive rates of (N,) memes of both classes, from (0, 0) to (1, 1).

    T: distinct probabilities; memes with equal probabilities are one point.
    """
    alarms, hits, _ = roc_curve(label, probability, drop_intermediate=False)
    return alarms, hits


def precision_recall(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) recall and precision of (N,) memes of both classes at each distinct probability, falling."""
    precision, recall, _ = precision_recall_curve(label, probability)
    return recall[-2::-1], precision[-2::-1]  # without scikit-learn's last point (0, 1), which has no threshold


def threshold_figures(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(T,) distinct probabilities of (N,) memes of both classes, rising, and (T,) precision, recall, F1 and macro-F1 with
    each as the threshold."""
    precision, recall, thresholds = precision_recall_curve(label, probability)
    positives = int(label.sum())
    hits = np.rint(recall[:-1] * positives)
    alarms = len(label) - np.searchsorted(np.sort(probability), thresholds) - hits
    _, f1, other = rates(np.full(len(hits), positives), len(label) - positives, hits, alarms)
    figures = {"precision": precision[:-1], "recall": recall[:-1], "F1 of offensive": f1, "macro-F1": (f1 + other) / 2}
    return thresholds, figures
