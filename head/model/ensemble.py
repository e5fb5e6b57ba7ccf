"""Ensembles of heads: averaged logits, and ensemble selection from out-of-fold logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from head.data.features import Features
from head.data.ranking import aurocs

# Most picks of one selection, repeats included: beyond about ten the mean hardly changes.
_MOST_PICKS = 12
# Bagged selections whose picks are summed, and the least share of the picks that keeps a head.
_BAGS, _LEAST = 20, 0.05
# Memes per forward pass, to bound memory.
_ROWS = 4096


class HeadEnsemble(nn.Module):
    """Weighted sum of heads' logits, each averaged over its members; (N, Di) and (N, Dt) -> (N,)."""

    def __init__(self, heads: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.heads, self.weights = nn.ModuleList(heads), tuple(weights)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return sum(weight * head(image, text).mean(dim=0) for weight, head in zip(self.weights, self.heads))

    @torch.inference_mode()
    def score(self, features: Features) -> np.ndarray:
        """(N,) float64 logits, in eval mode."""
        self.eval()
        image, text = (torch.from_numpy(np.ascontiguousarray(v, np.float32)) for v in (features.image, features.text))
        parts = [self(*part).double() for part in zip(image.split(_ROWS), text.split(_ROWS))]
        return torch.cat(parts).numpy()


def inverse_std(logits: np.ndarray) -> np.ndarray:
    """(T,) inverse standard deviations of the logits (T, N) of T heads, NaN left out: losses and output layers differ in the
    scale of their logits, which must not weight the heads."""
    return 1 / np.maximum(np.nanstd(logits, axis=1), 1e-6)


def weighted_ensemble(
    heads: Sequence[nn.Module], logits: np.ndarray, counts: np.ndarray
) -> tuple[HeadEnsemble, np.ndarray]:
    """The ensemble of the picked heads, weighted by count and inverse standard deviation, and its out-of-fold logits (N,).

    logits: (T, N), out-of-fold; counts: (T,), how often each head is picked, at least one above 0.
    """
    weights, scales, chosen = counts / counts.sum(), inverse_std(logits), np.flatnonzero(counts).tolist()
    ensemble = HeadEnsemble([heads[head] for head in chosen], [float(weights[head] * scales[head]) for head in chosen])
    return ensemble, weights @ (logits * scales[:, None])


def select_bagged(logits: np.ndarray, label: np.ndarray, held: np.ndarray, seed: int) -> np.ndarray:
    """(T,) int64: how often each head is picked over _BAGS runs of `select`, each on a random half of the heads; 0 for heads
    with less than _LEAST of all picks. Arguments as of `select`.

    Bagged ensemble selection, which overfits less than one run: Caruana, Munson and Niculescu-Mizil, "Getting the Most Out
    of Ensemble Selection" (2006).
    """
    drawn, total = np.random.default_rng(seed), np.zeros(len(logits), np.int64)
    for _ in range(_BAGS):
        rows = np.sort(drawn.choice(len(logits), max(1, round(len(logits) / 2)), replace=False))
        total[rows] += select(logits[rows], label, held)
    return np.where(total >= _LEAST * total.sum(), total, 0)


def select(logits: np.ndarray, label: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(T,) int64: how often each head is picked. logits: (T, N) out-of-fold, sorted by AUROC, highest first; held: (F, N), 1 where
    a fold holds a meme out.

    Ensemble selection (Caruana et al., "Ensemble Selection from Libraries of Models", 2004): start from the best prefix of
    the sorted heads, then add the head that raises the mean AUROC over the folds most, with replacement, until none does.
    """
    counted = held.any(axis=0)
    logits, held, labels = logits[:, counted], held[:, counted].astype(np.float32), label[counted]

    def fold_auroc(sums: np.ndarray) -> np.ndarray:  # (K, N) -> (K,)
        folds = [aurocs(np.broadcast_to(labels, held.shape), np.broadcast_to(one, held.shape), held) for one in sums]
        return np.mean(folds, axis=1)

    first = np.cumsum(logits[:_MOST_PICKS], axis=0)
    values = fold_auroc(first)
    size = int(np.argmax(values)) + 1
    picks, total, best = np.zeros(len(logits), np.int64), first[size - 1], values[size - 1]
    picks[:size] = 1
    while picks.sum() < _MOST_PICKS:
        values = fold_auroc(total + logits)
        choice = int(np.argmax(values))
        if values[choice] <= best:
            break
        picks[choice] += 1
        total, best = total + logits[choice], values[choice]
    return picks
