"""Logistic regression on some of the input blocks, with one weight per block.

On frozen CLIP vectors this is the linear probe of Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision" (2021). Blocks are weighted, since under one penalty the wider or noisier side dominates.
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

# Inverse penalties C, for rows of mean square length 1. A finer grid is beyond what the folds can distinguish.
_PENALTIES = np.logspace(-2, 3, 6)
# Penalties of the ridge regressions that compare block weights, relative to the mean eigenvalue.
_RIDGES = np.logspace(-3, 3, 13)
# Weights tried for a block; the others keep theirs.
_WEIGHTS = (0.1, 0.3, 3.0)
# Most iterations; only fits with hardly any penalty, which are seldom selected, need more.
_STEPS = 500
# scikit-learn's default tolerance is enough to compare penalties; the final fit is exact to three digits.
_TOLERANCE = 1e-6
# Eigenvalues below this share of the largest are rounding.
_SMALLEST = 1e-7


def fit_regression(data: CandidateData, blocks: Sequence[str], standard: bool = True) -> Method | None:
    """Fit with settings chosen by the members' mean held-out AUROC; None if the blocks need sides that share a space, and
    these do not.

    Chosen in turn: whether sides are centred (only with agreement blocks); the weight of each block, greedily, by ridge
    regression, which solves all penalties with one decomposition; the penalty of the logistic regression.
    """
    config = data.inputs(blocks, agreement_among(blocks), standard)
    if config is None:
        return None
    views = [_Views(data, config)]
    if config.agrees:
        views.append(_Views(data, replace(config, centred=False)))
    equal = np.ones(len(blocks))
    best = max(views, key=lambda view: view.auroc(equal))  # the first, centred, of equals
    weights = best.tuned_weights(equal)
    penalty = best.penalty(weights)
    return _fitted(data, best.config, weights, penalty)


class _Views:
    """The compared members' inputs under one config."""

    def __init__(self, data: CandidateData, config: InputsConfig) -> None:
        self.config, self._data = config, data
        self._shares = [_Share(data, config, train, held) for train, held in data.compared()]

    def auroc(self, weights: np.ndarray) -> float:
        """The highest mean AUROC over the penalties of ridge regressions with these block weights."""
        return float(self._data.aurocs([share.ridge(weights) for share in self._shares]).max())

    def tuned_weights(self, weights: np.ndarray) -> np.ndarray:
        """The weights after one greedy pass over the blocks; unchanged for a single block."""
        best = self.auroc(weights)
        for block in range(len(weights) if len(weights) > 1 else 0):
            for factor in _WEIGHTS:
                tried = weights.copy()
                tried[block] = factor
                found = self.auroc(tried)
                if found > best:
                    weights, best = tried, found
        return weights

    def penalty(self, weights: np.ndarray) -> float:
        """The C of the logistic regression; the strongest penalty of equals."""
        return float(_PENALTIES[np.argmax(self._data.aurocs([share.sweep(weights) for share in self._shares]))])


class _Share:
    """One member's inputs, as scalar products with its train rows (kernel form), so that penalties and weights are cheap."""

    def __init__(self, data: CandidateData, config: InputsConfig, train: np.ndarray, held: np.ndarray) -> None:
        label = data.features.label
        self._label, self._target = label[train], np.where(label[train] == 1, 1.0, -1.0)
        image, text = data.vectors()
        inputs = Inputs(config, 1).fit(image, text, [torch.from_numpy(train)])
        rows, known = (inputs(image[part], text[part])[0].numpy() for part in (held, train))
        splits = np.cumsum(config.widths)[:-1]
        if not config.standard:
            rows, known = rows - known.mean(axis=0), known - known.mean(axis=0)
        parts = zip(np.split(known, splits, axis=1), np.split(rows, splits, axis=1))
        self._products = [(part @ part.T, out @ part.T) for part, out in parts]
        self._decompositions: dict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def ridge(self, weights: np.ndarray) -> np.ndarray:
        """(R, H) scores of the held-out memes for R ridge penalties."""
        values, axes, held = self._decomposed(weights)
        onto = axes.T @ (self._target - self._target.mean())  # (n,)
        shrunk = onto / (values + _RIDGES[:, None] * values.mean())  # (R, n)
        return shrunk @ held.T

    def sweep(self, weights: np.ndarray) -> np.ndarray:
        """(P, H) scores of the held-out memes for P penalties of logistic regressions in the span of the train rows."""
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
        """Eigenvalues (n,) and eigenvectors (n, n) of the weighted train rows' Gram matrix, and the held-out rows' products with
        the train rows on these axes (h, n)."""
        key = weights.tobytes()
        if key not in self._decompositions:
            known, held = (
                np.asarray(sum(weight**2 * product for weight, product in zip(weights, products)), np.float64)
                for products in zip(*self._products)
            )
            values, axes = np.linalg.eigh(known)
            self._decompositions[key] = values.clip(min=0), axes, held @ axes
        return self._decompositions[key]


def _fitted(data: CandidateData, config: InputsConfig, weights: np.ndarray, penalty: float) -> Method:
    """All members fitted to their train memes, as one head."""
    image, text = data.vectors()
    chosen = data.train_rows()
    head = LinearHead(config, len(chosen))
    head.inputs.fit(image, text, [torch.from_numpy(rows) for rows in chosen])
    factors = np.repeat(weights, config.widths)
    for member, rows in enumerate(chosen):
        columns = head.inputs.of_member(image[rows], text[rows], member).numpy() * factors.astype(np.float32)
        centre = 0.0 if config.standard else columns.mean(axis=0)
        columns -= centre
        size = np.sqrt(np.square(columns, dtype=np.float64).sum() / len(columns)) or 1.0
        coefficients, bias = _optimum(columns / np.float32(size), data.features.label[rows], penalty)
        weight = coefficients * factors / size
        head.weight.data[member] = tensor(weight)
        head.bias.data[member] = float(bias - np.sum(coefficients * centre) / size)
    named = {block: float(weight) for block, weight in zip(config.blocks, weights)}
    settings: dict[str, object] = {"C": penalty}
    if len(named) > 1:
        settings["weights"] = named
    if config.agrees:
        settings["centred"] = config.centred
    return data.method(head, settings)


def _optimum(columns: np.ndarray, label: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """(W,) coefficients and the intercept. With fewer memes than columns it is fitted in the span of the rows: the same optimum,
    several times faster."""
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
    # A BLAS sets the processor's "invalid" flag now and then on finite numbers (seen once, in float32 products).
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Fits with weak penalties need not converge: held-out memes evaluate them as they are.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, label)
    assert np.isfinite(model.coef_).all()
    return model
