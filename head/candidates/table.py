"""All candidates: what a careful person would try before a fusion head, and what that must beat.

A new candidate is one file beside this one and one line in the table. Each learns from the same members' memes as the
fusion heads do, and never sees test; each may be picked for the ensemble, and may ship alone.
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
"""Fits a candidate; None where it does not apply."""

BOTH = "logistic regression, both"
# As strong as the fusion head whose space it looks in, and no simpler.
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
# They learn nothing of a meme, so they neither ship nor join an ensemble.
REFERENCES: dict[str, Fit] = {"zero-shot prompts": zero_shot, MAJORITY: majority}


def fit_candidates(given: CandidateData, fitted: Callable[[], object] | None = None) -> dict[str, Method]:
    """Every candidate that applies, then every reference, fitted to the members' shares of the memes; `fitted` is called
    after each, without it a progress bar is shown."""
    methods, table = {}, CANDIDATES | REFERENCES
    # a bar in a worker process would leave semaphores behind
    shown = table if fitted else tqdm(table, "candidates", leave=False, delay=1)
    # Small products: threads that wait for each other on busy cores are slower than one.
    with threadpool_limits(1):
        for name in shown:
            method = table[name](given)
            if method is not None:
                methods[name] = method
            if fitted:
                fitted()
    return methods


def strongest(label: np.ndarray, methods: dict[str, Method]) -> str:
    """The simple candidate that ranks the memes best out of fold, the first of equals: what every claim is measured
    against."""

    def worth(name: str) -> float:
        there = np.isfinite(methods[name].out_of_fold)
        return auroc(label[there], methods[name].out_of_fold[there]) or 0.0

    return max((name for name in CANDIDATES if name in methods and name != TRAINED), key=worth)
