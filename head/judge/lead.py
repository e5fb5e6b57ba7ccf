"""Whether one ranking of memes is better than another beyond noise.

Apart from `head.data.ranking`, since the server must not wait for scipy.stats to be imported.
"""

import numpy as np
from scipy.stats import rankdata


def auroc_lead(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """By how many standard errors the AUROC of the first scores is above that of the second, on the same memes; all (N,).

    DeLong et al., "Comparing the areas under two or more correlated receiver operating characteristic curves" (1988).
    0 where both rank alike or a class is missing.
    """
    if len(np.unique(label)) < 2:
        return 0.0
    placed = np.stack([_placements(label, score) for score in (first, second)])  # (2, N)
    difference, variance = 0.0, 0.0
    for value in (0, 1):
        gap = (placed[0] - placed[1])[label == value]
        difference = float(gap.mean())
        variance += float(gap.var(ddof=1)) / len(gap) if len(gap) > 1 else 0.0
    return (
        difference / np.sqrt(variance) if variance > 0 else float(np.sign(difference)) * np.inf if difference else 0.0
    )


def _placements(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(N,) for each meme, the share of the memes of the other label that it is on the right side of, ties by half."""
    ranks, placed = rankdata(score), np.empty(len(label))
    for value in (0, 1):
        own = label == value
        beyond = (ranks[own] - rankdata(score[own])) / np.sum(~own)  # the share of the others below
        placed[own] = beyond if value else 1 - beyond
    return placed
