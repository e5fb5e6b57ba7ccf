"""Logistic regression on some of the inputs, each kind of them with a weight of its own.

On frozen CLIP vectors it is the linear probe of Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision" (2021); one penalty for all columns lets the wider or the noisier side drown the other.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from head.candidates.data import CandidateData, tensor
from head.model.inputs import Inputs, InputsConfig, agreement_among
from head.model.linear import LinearHead
from head.model.method import Method

# Of rows whose mean square length is 1: half a decade is finer than folds can tell, and each costs as much as a fit.
_PENALTIES = np.logspace(-2, 3, 6)
# Of ridge regression, which compares the weights of blocks, in parts of the rows' mean square length.
_RIDGES = np.logspace(-3, 3, 13)
# A block's columns against the others'.
_WEIGHTS = (0.1, 0.3, 3.0)
# A fit that has not settled by then is one with hardly any penalty, which the folds seldom pick.
_STEPS = 500
# Enough to compare penalties is scikit-learn's own; a head that may be shipped is to be the optimum to three digits.
_TOLERANCE = 1e-6
# Directions that explain less of the rows than this are rounding.
_SMALLEST = 1e-7


def fit_regression(given: CandidateData, blocks: Sequence[str], standard: bool = True) -> Method | None:
    """None where the inputs need sides that share a space, and these do not.

    Chosen by the mean AUROC of the members on what each held out: whether the sides are centred, where products are among
    the inputs; the blocks' weights, one after another, by ridge regression, whose solutions for all penalties cost one
    decomposition; then the penalty of the logistic regression.
    """
    config = given.inputs(blocks, agreement_among(blocks), standard)
    if config is None:
        return None
    views = [_Views(given, config)]
    if config.agrees:
        views.append(_Views(given, replace(config, centred=False)))
    even = np.ones(len(blocks))
    best = max(views, key=lambda view: view.worth(even))  # centred, of equals
    weights = best.weighted(even)
    penalty = best.penalty(weights)
    return _fitted(given, best.config, weights, penalty)


class _Views:
    """The compared members' blocks, and their products, of one choice of inputs."""

    def __init__(self, given: CandidateData, config: InputsConfig) -> None:
        self.config, self._given = config, given
        self._shares = [_Share(given, config, train, held) for train, held in given.compared()]

    def worth(self, weights: np.ndarray) -> float:
        """The best mean AUROC of ridge regressions with these weights of the blocks."""
        return float(self._given.aurocs([share.ridge(weights) for share in self._shares]).max())

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """The weights, one block's after another changed where that helps."""
        best = self.worth(weights)
        for block in range(len(weights) if len(weights) > 1 else 0):
            for factor in _WEIGHTS:
                tried = weights.copy()
                tried[block] = factor
                worth = self.worth(tried)
                if worth > best:
                    weights, best = tried, worth
        return weights

    def penalty(self, weights: np.ndarray) -> float:
        """The first of equals is the strongest penalty."""
        return float(_PENALTIES[np.argmax(self._given.aurocs([share.sweep(weights) for share in self._shares]))])


class _Share:
    """One member's memes."""

    def __init__(self, given: CandidateData, config: InputsConfig, train: np.ndarray, held: np.ndarray) -> None:
        label = given.features.label
        self._label, self._target = label[train], np.where(label[train] == 1, 1.0, -1.0)
        image, text = given.vectors()
        inputs = Inputs(config, 1).fit(image, text, [torch.from_numpy(train)])
        rows, known = (inputs(image[part], text[part])[0].numpy() for part in (held, train))
        splits = np.cumsum(config.widths)[:-1]
        if not config.standard:
            rows, known = rows - known.mean(axis=0), known - known.mean(axis=0)
        parts = zip(np.split(known, splits, axis=1), np.split(rows, splits, axis=1))
        self._products = [(part @ part.T, out @ part.T) for part, out in parts]
        self._decompositions: dict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def ridge(self, weights: np.ndarray) -> np.ndarray:
        """(R, H) scores of the memes held out."""
        values, axes, held = self._decomposed(weights)
        onto = axes.T @ (self._target - self._target.mean())  # (n,)
        shrunk = onto / (values + _RIDGES[:, None] * values.mean())  # (R, n)
        return shrunk @ held.T

    def sweep(self, weights: np.ndarray) -> np.ndarray:
        """(P, H) scores of the memes held out by logistic regressions in the directions that the rows span."""
        values, axes, held = self._decomposed(weights)
        there = values > _SMALLEST * values.max()
        size = np.sqrt(values.mean())
        rows = axes[:, there] * np.sqrt(values[there]) / size
        out = held[:, there] / np.sqrt(values[there]) / size
        model, scores = _model(_PENALTIES[0]), []
        for penalty in _PENALTIES:
            scores.append(_fit(model.set_params(C=penalty), rows, self._label).decision_function(out))
        return np.stack(scores)

    def _decomposed(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues (n,) and eigenvectors (n, n) of the weighted rows' products, and on these axes the products of the
        memes held out with the rows (h, n)."""
        key = weights.tobytes()
        if key not in self._decompositions:
            known, held = (
                np.asarray(sum(weight**2 * product for weight, product in zip(weights, products)), np.float64)
                for products in zip(*self._products)
            )
            values, axes = np.linalg.eigh(known)
            self._decompositions[key] = values.clip(min=0), axes, held @ axes
        return self._decompositions[key]


def _fitted(given: CandidateData, config: InputsConfig, weights: np.ndarray, penalty: float) -> Method:
    """All members fitted to their memes, as one head."""
    image, text = given.vectors()
    chosen = given.train_rows()
    head = LinearHead(config, len(chosen))
    head.inputs.fit(image, text, [torch.from_numpy(rows) for rows in chosen])
    factors = np.repeat(weights, config.widths)
    for member, rows in enumerate(chosen):
        columns = head.inputs.of_member(image[rows], text[rows], member).numpy() * factors.astype(np.float32)
        centre = 0.0 if config.standard else columns.mean(axis=0)
        columns -= centre
        size = np.sqrt(np.square(columns, dtype=np.float64).sum() / len(columns)) or 1.0
        coefficients, bias = _optimum(columns / np.float32(size), given.features.label[rows], penalty)
        weight = coefficients * factors / size
        head.weight.data[member] = tensor(weight)
        head.bias.data[member] = float(bias - np.sum(coefficients * centre) / size)
    named = {block: float(weight) for block, weight in zip(config.blocks, weights)}
    settings: dict[str, object] = {"C": penalty}
    if len(named) > 1:
        settings["weights"] = named
    if config.agrees:
        settings["centred"] = config.centred
    return given.method(head, settings)


def _optimum(columns: np.ndarray, label: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """(W,) coefficients and the intercept. Fewer memes than columns span few directions: a fit in those is the fit in all
    columns, several times quicker."""
    model = _model(penalty).set_params(tol=_TOLERANCE)
    if len(columns) >= columns.shape[1]:
        _fit(model, columns, label)
        return model.coef_[0].astype(np.float64), float(model.intercept_[0])
    values, axes = np.linalg.eigh((columns @ columns.T).astype(np.float64))
    there = values > _SMALLEST * values.max()
    spread, axes = np.sqrt(values[there]), axes[:, there]
    _fit(model, axes * spread, label)
    return columns.T.astype(np.float64) @ (axes @ (model.coef_[0] / spread)), float(model.intercept_[0])


def _model(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=float(penalty), max_iter=_STEPS, warm_start=True)


def _fit(model: LogisticRegression, rows: np.ndarray, label: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # The weak end of the sweep need not settle; the memes held out judge what came out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, label)
