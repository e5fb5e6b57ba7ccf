"""Several heads as one: their logits averaged, and the choice of which heads.

Works on trained heads and on what they said of memes they had not seen; knows nothing of training or of files.
`python -m head tune` chooses the ensemble, the server runs it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from head.data.features import Features
from head.data.ranking import aurocs

# Picks of one ensemble, repeats included: beyond some ten the mean no longer moves.
_MOST_PICKS = 12
# Selections that are added up, and the share of their picks that a head is worth keeping for.
_BAGS, _LEAST = 20, 0.05
# Memes at a time: bounds the memory on large sets and costs nothing on small ones.
_ROWS = 4096


class HeadEnsemble(nn.Module):
    """Weighted mean of the logits of heads, each the mean of its members'; (N, Di) and (N, Dt) -> (N,)."""

    def __init__(self, heads: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.heads, self.weights = nn.ModuleList(heads), tuple(weights)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return sum(weight * head(image, text).mean(dim=0) for weight, head in zip(self.weights, self.heads))

    @torch.inference_mode()
    def score(self, features: Features) -> np.ndarray:
        """(N,) float64 logits."""
        self.eval()
        image, text = (torch.from_numpy(np.ascontiguousarray(v, np.float32)) for v in (features.image, features.text))
        parts = [self(*part).double() for part in zip(image.split(_ROWS), text.split(_ROWS))]
        return torch.cat(parts).numpy()


def inverse_std(logits: np.ndarray) -> np.ndarray:
    """(T,) factors that bring the logits (T, N) of T heads to one deviation: focal loss, smoothing and cosines differ in
    the size of their logits, and none is to speak louder for that."""
    return 1 / np.maximum(np.nanstd(logits, axis=1), 1e-6)


def weighted_ensemble(
    heads: Sequence[nn.Module], logits: np.ndarray, counts: np.ndarray
) -> tuple[HeadEnsemble, np.ndarray]:
    """The ensemble of those of T heads that are picked, inverse_std and weighted by how often, and its own logits (N,).

    logits: (T, N), of memes that the heads had not seen; counts: (T,), how often each is picked, at least one is.
    """
    weights, scales, chosen = counts / counts.sum(), inverse_std(logits), np.flatnonzero(counts).tolist()
    ensemble = HeadEnsemble([heads[head] for head in chosen], [float(weights[head] * scales[head]) for head in chosen])
    return ensemble, weights @ (logits * scales[:, None])


def select_bagged(logits: np.ndarray, label: np.ndarray, held: np.ndarray, seed: int) -> np.ndarray:
    """(T,) int64: how often each of T heads is picked in _BAGS selections of `select`, each from a half of the heads; those
    with less than _LEAST of all picks are left out.

    Caruana, Munson and Niculescu-Mizil, "Getting the Most Out of Ensemble Selection" (2006): one selection overfits the
    memes that it is made by, and the best head is in half of the bags only. The arguments are those of `select`.
    """
    drawn, total = np.random.default_rng(seed), np.zeros(len(logits), np.int64)
    for _ in range(_BAGS):
        rows = np.sort(drawn.choice(len(logits), max(1, round(len(logits) / 2)), replace=False))
        total[rows] += select(logits[rows], label, held)
    return np.where(total >= _LEAST * total.sum(), total, 0)


def select(logits: np.ndarray, label: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(T,) int64: how often each of T heads is picked, from their out-of-fold logits (T, N), the best first.

    Caruana et al., "Ensemble Selection from Libraries of Models" (2004): begin with the best heads in their order, as
    many as do best together; then add, again and again, the head that helps most, picked ones included, until none
    does. Judged by the mean over the folds of the AUROC; held: (F, N), 1 where a fold holds a meme out.
    """
    counted = held.any(axis=0)
    logits, held, labels = logits[:, counted], held[:, counted].astype(np.float32), label[counted]

    def judged(sums: np.ndarray) -> np.ndarray:  # (K, N) -> (K,)
        folds = [aurocs(np.broadcast_to(labels, held.shape), np.broadcast_to(one, held.shape), held) for one in sums]
        return np.mean(folds, axis=1)

    first = np.cumsum(logits[:_MOST_PICKS], axis=0)
    values = judged(first)
    size = int(np.argmax(values)) + 1
    picks, total, best = np.zeros(len(logits), np.int64), first[size - 1], values[size - 1]
    picks[:size] = 1
    while picks.sum() < _MOST_PICKS:
        values = judged(total + logits)
        choice = int(np.argmax(values))
        if values[choice] <= best:
            break
        picks[choice] += 1
        total, best = total + logits[choice], values[choice]
    return picks
