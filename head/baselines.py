"""What a head must beat: logistic regression on the same vectors, and the majority class.

Sees train and validation when fitting, never test. Printed beside every head by `python -m head tune`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from head.data import Features
from head.fusion import Standardise
from head.metrics import auroc

BOTH, IMAGE, TEXT = ("logistic regression, both", "logistic regression, image only", "logistic regression, text only")
MAJORITY = "majority class"
# Standardised columns in their hundreds want strong penalties; two steps a decade are finer than validation can tell.
_PENALTIES = np.logspace(-5, 1, 13)
# A fit that has not settled by then is one with hardly any penalty, which validation seldom picks.
_STEPS = 500

_SIDES: dict[str, Callable[[Features], list[np.ndarray]]] = {
    BOTH: lambda features: [features.image, features.text],
    IMAGE: lambda features: [features.image],
    TEXT: lambda features: [features.text],
}


@dataclass(frozen=True)
class Baseline:
    """A fitted method. probability: Features of N memes -> (N,) probabilities; settings: what validation chose."""

    probability: Callable[[Features], np.ndarray]
    settings: dict[str, float]


def fit_baselines(features: Features) -> dict[str, Baseline]:
    """Fit each baseline to train; logistic regressions take the C with the highest validation AUROC.

    As in LogisticRegression on frozen CLIP vectors (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021). The majority class gives every meme the share of offensive memes in train.
    """
    train, validation = features.only("train"), features.only("validation")
    # Small products: threads that wait for each other on busy cores are slower than one.
    with threadpool_limits(1):
        fitted = {name: _logistic(train, validation, sides) for name, sides in _SIDES.items()}
    share = float(train.label.mean())
    return {**fitted, MAJORITY: Baseline(lambda memes: np.full(len(memes), share), {"share": share})}


def _logistic(train: Features, validation: Features, sides: Callable[[Features], list[np.ndarray]]) -> Baseline:
    scalings = [_scaling(vectors) for vectors in sides(train)]

    def columns(memes: Features) -> np.ndarray:  # (N, D) or (N, Di + Dt)
        parts = [scale(torch.from_numpy(vectors)) for scale, vectors in zip(scalings, sides(memes))]
        return torch.cat(parts, dim=1).numpy().astype(np.float64)

    rows, held_out = columns(train), columns(validation)
    models = [_fit(rows, train.label, penalty) for penalty in _PENALTIES]
    # The first of equals has the strongest penalty.
    best = max(models, key=lambda model: auroc(validation.label, model.decision_function(held_out)) or 0.0)
    return Baseline(lambda memes: best.predict_proba(columns(memes))[:, 1], {"C": float(best.C)})


def _scaling(vectors: np.ndarray) -> Standardise:
    scaling = Standardise(vectors.shape[1])
    scaling.fit(torch.from_numpy(vectors))
    return scaling


def _fit(rows: np.ndarray, label: np.ndarray, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # The weak end of the sweep need not settle; validation judges what came out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=float(penalty), max_iter=_STEPS).fit(rows, label)
