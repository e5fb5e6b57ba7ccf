"""Findings about the data: likely label errors, metrics by slice, and drift between splits."""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from head.data.features import Features
from head.judge.metrics import Estimate, auroc_estimate, measure, share

_SUSPECTS = 12
# Least memes of a slice or split, and most memes of a split in the drift test.
_SLICE, _COMPARED = 10, 2000
# Principal components per side in the drift test.
_COLUMNS = 32


def label_errors(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The rows of (N,) memes whose labels are likely wrong, the likeliest first; probability: (N,) cross-fitted.

    Confident learning (Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021): a meme is
    confidently of a class if its probability is at least the mean over the memes with that label. Suspects are confidently
    of the other class only, ranked by the probability of their label, lowest first.
    """
    if len(np.unique(label)) < 2:
        return np.empty(0, np.int64)
    bar = np.array([(1 - probability)[label == 0].mean(), probability[label == 1].mean()])
    confident = np.stack([1 - probability >= bar[0], probability >= bar[1]])  # (2, N)
    rows = np.arange(len(label))
    suspected = confident[1 - label, rows] & ~confident[label, rows]
    own = np.where(label == 1, probability, 1 - probability)
    return np.flatnonzero(suspected)[np.argsort(own[suspected], kind="stable")][:_SUSPECTS]


def slices(
    memes: Features, texts: list[str] | None, probability: np.ndarray, threshold: float, seed: int
) -> list[dict[str, Any]]:
    """Metrics by length of text and of memes with near-duplicates, as JSON values; slices of fewer than _SLICE memes are left
    out. texts: of the memes, None if unknown; probability: (N,)."""
    kinds: dict[str, np.ndarray] = {}
    if texts is not None:
        count = np.array([len(text.split()) for text in texts])
        low, high = np.round(np.percentile(count[count > 0], (33, 67))) if (count > 0).any() else (0, 0)
        kinds["no text"] = count == 0
        kinds[f"up to {low:.0f} words"] = (count > 0) & (count <= low)
        kinds[f"{low + 1:.0f} to {high:.0f} words" if high > low + 1 else f"{high:.0f} words"] = (count > low) & (
            count <= high
        )
        kinds[f"more than {high:.0f} words"] = (count > high) & (count > 0)
    _, of, counts = np.unique(memes.copies, return_inverse=True, return_counts=True)
    kinds["with near-copies among the judged"] = counts[of] > 1
    rows = []
    for name, there in kinds.items():
        if there.sum() < _SLICE or there.all():
            continue
        part, chances = memes.at(np.flatnonzero(there)), probability[there]
        figures = measure(part.label, {"": chances}, {"": threshold}, part.copies, seed)[""]
        rows.append(
            {
                "slice": name,
                "memes": len(part),
                "offensive": int(part.label.sum()),
                "auroc": figures["auroc"].plain(),
                "accuracy": figures["accuracy"].plain(),
            }
        )
    return rows


def drift(tuning: Features, test: Features, seed: int) -> dict[str, Any]:
    """Drift between the memes tuned on and test, as JSON values: the prevalence of either, and the cross-validated AUROC of a
    logistic regression that predicts the split from the vectors (classifier two-sample test: Lopez-Paz and Oquab,
    "Revisiting Classifier Two-Sample Tests", 2017); 0.5 means no difference found."""
    found = {"tuning": share(tuning.label == 1).plain(), "test": share(test.label == 1).plain()}
    drawn = np.random.default_rng(seed)
    parts = [memes.at(drawn.permutation(len(memes))[:_COMPARED]) for memes in (tuning, test)]
    which = np.repeat((0, 1), [len(part) for part in parts])
    if min(np.bincount(which)) < _SLICE:
        return {**found, "told_apart": Estimate(None, None, None).plain()}
    rows = np.concatenate(
        [_principal(np.concatenate([getattr(part, side) for part in parts])) for side in ("image", "text")], 1
    )
    order = drawn.permutation(len(rows))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced"))
    score = np.empty(len(rows))
    score[order] = cross_val_predict(model, rows[order], which[order], method="decision_function")
    groups = np.concatenate([part.copies for part in parts])
    return {**found, "told_apart": auroc_estimate(which, score, groups).plain()}


def _principal(vectors: np.ndarray) -> np.ndarray:
    """(N, K) leading principal components of (N, D) vectors at unit length."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    unit = unit - unit.mean(axis=0)
    axes = np.linalg.eigh((unit.T @ unit).astype(np.float64))[1][:, -_COLUMNS:]
    return unit @ axes
