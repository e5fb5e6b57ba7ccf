"""The candidates: simple methods that a fusion head must beat.

A new candidate is one file beside this one and one line in the table. Candidates use the same folds as fusion heads;
each may be selected for the ensemble, and may ship alone.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from head.candidates.data import CandidateData
from head.candidates.forest import fit_forest
from head.candidates.neighbours import fit_neighbours, fit_trained_neighbours
from head.candidates.references import majority, zero_shot
from head.candidates.regression import fit_regression
from head.data.ranking import auroc
from head.model.inputs import BLOCKS
from head.model.method import MAJORITY, Method

Fit = Callable[[CandidateData], Method | None]
"""Fits a candidate; returns None where it does not apply."""

BOTH = "logistic regression, both"
# No simple method, since it needs a trained fusion head: never the reference.
TRAINED = "nearest neighbours, trained"
CANDIDATES: dict[str, Fit] = {
    BOTH: partial(fit_regression, blocks=("image", "text")),
    "logistic regression, image only": partial(fit_regression, blocks=("image",)),
    "logistic regression, text only": partial(fit_regression, blocks=("text",)),
    "cosine of the sides": partial(fit_regression, blocks=("cosine",)),
    "logistic regression, product": partial(fit_regression, blocks=("product",)),
    "logistic regression, all inputs": partial(fit_regression, blocks=BLOCKS),
    "linear probe, unstandardised": partial(fit_regression, blocks=("image", "text"), standard=False),
    "nearest neighbours, both": partial(fit_neighbours, blocks=("image", "text")),
    "nearest neighbours, product": partial(fit_neighbours, blocks=("product", "difference")),
    TRAINED: fit_trained_neighbours,
    "random forest": fit_forest,
}
# Not fitted to vectors, so they neither ship nor join an ensemble.
REFERENCES: dict[str, Fit] = {"zero-shot prompts": zero_shot, MAJORITY: majority}


def fit_candidates(data: CandidateData, fitted: Callable[[], object] | None = None) -> dict[str, Method]:
    """Fit every candidate that applies, then every reference; {name: method}. Calls `fitted` after each; without it, shows a
    progress bar."""
    methods, table = {}, CANDIDATES | REFERENCES
    # a progress bar in a worker process would leak semaphores
    shown = table if fitted else tqdm(table, "candidates", leave=False, delay=1)
    # Small matrices: on busy cores, synchronising threads is slower than one thread.
    with threadpool_limits(1):
        for name in shown:
            method = table[name](data)
            if method is not None:
                methods[name] = method
            if fitted:
                fitted()
    return methods


def strongest(label: np.ndarray, methods: dict[str, Method]) -> str:
    """The reference: the simple candidate with the highest out-of-fold AUROC, the first of equals."""

    def area(name: str) -> float:
        there = np.isfinite(methods[name].out_of_fold)
        return auroc(label[there], methods[name].out_of_fold[there]) or 0.0

    return max((name for name in CANDIDATES if name in methods and name != TRAINED), key=area)
