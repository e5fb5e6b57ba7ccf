"""Areas under ROC curves: of one ranking, or of many at once."""

import numpy as np


def auroc(label: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of (N,) scores, ties counting half; None with one class only."""
    value = aurocs(label, score[None])[0]
    return None if np.isnan(value) else float(value)


def aurocs(label: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """(M,) areas under the ROC curves of the rows of (M, N) scores, ties counting half.

    label: (N,) or (M, N). weight: (M, N) of 0 and 1, the memes counted in each row; None for all. NaN where a row lacks a
    class or holds a NaN score.
    """
    rows, columns = score.shape
    offset = np.arange(0, rows * columns, columns)[:, None]
    order = np.argsort(score, axis=1) + offset  # into the flattened arrays
    ranked = score.ravel()[order]
    positive = np.broadcast_to(label, score.shape).ravel()[order] == 1
    counted = np.ones(score.shape) if weight is None else weight.ravel()[order].astype(np.float64)
    positive, negative = counted * positive, counted * ~positive
    below = np.cumsum(negative, axis=1)
    pairs = below[:, -1] * positive.sum(axis=1)
    below -= negative / 2
    tied = ranked[:, 1:] == ranked[:, :-1]
    if tied.any():
        below = _mean_of_ties(below, negative, tied)
    wins = np.einsum("mn,mn->m", positive, below)
    defined = (pairs > 0) & ~np.isnan(ranked[:, -1])
    return np.divide(wins, pairs, out=np.full(rows, np.nan), where=defined)


def _mean_of_ties(below: np.ndarray, negative: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """(M, N) negatives below each place, half its own included -> the same with half of all tied negatives included."""
    rows, columns = below.shape
    edge = np.ones((rows, 1), dtype=bool)
    group = np.cumsum(np.concatenate((edge, ~tied), axis=1).ravel()) - 1  # of each place, over all rows
    starts = np.flatnonzero(np.concatenate((edge, ~tied), axis=1))
    own = np.add.reduceat(negative.ravel(), starts)
    first = (below - negative / 2).ravel()[starts]  # negatives below the whole group
    return (first + own / 2)[group].reshape(rows, columns)
