"""Fit a calibration on out-of-fold logits."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from head.judge.calibration import PLATT, TEMPERATURE, Calibration

# Bounds of the slope: a negative one, likely on noise, would reverse the ranking, and 0 would lose it.
_SLOPES = (0.01, 100.0)
# Tolerances well below the precision of any metric; two parameters converge in a few dozen steps.
_PRECISION = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}


def fit_calibration(logits: np.ndarray, label: np.ndarray, fold: np.ndarray) -> Calibration:
    """Temperature scaling (Guo et al. 2017) or Platt scaling (Platt 1999), whichever has the lower held-out log loss.

    logits: (N,), N > 1, finite; label: (N,) of 0 and 1; fold: (N,) integers. Both kinds are compared by cross-validation
    over the folds, and the better one is fitted to all memes. A single fold is halved: on its training memes Platt
    scaling, with one parameter more, would always win. Raises ValueError for invalid shapes or values.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 1 or not logits.shape == label.shape == fold.shape or len(logits) < 2:
        raise ValueError(
            "expected one logit, label and fold per meme, at least two memes, "
            f"got {logits.shape}, {label.shape} and {fold.shape}"
        )
    if not np.isfinite(logits).all() or not np.isin(label, (0, 1)).all():
        raise ValueError("expected finite logits and labels 0 and 1, got others")
    if len(np.unique(fold)) == 1:
        fold = _halves(label)
    # temperature scaling, which has fewer parameters, if equal
    return _fit(min((TEMPERATURE, PLATT), key=lambda kind: _held_out_loss(kind, logits, label, fold)), logits, label)


def _halves(label: np.ndarray) -> np.ndarray:
    """(N,) of 0 and 1: alternating within each class."""
    half = np.empty(len(label), dtype=np.int64)
    half[np.argsort(label, kind="stable")] = np.arange(len(label)) % 2
    return half


def _held_out_loss(kind: str, logits: np.ndarray, label: np.ndarray, fold: np.ndarray) -> float:
    """Sum of the log losses of each fold under the calibration fitted to the others."""
    total = 0.0
    for number in np.unique(fold):
        out = fold == number
        fitted = _fit(kind, logits[~out], label[~out])
        total += float(_log_loss(fitted.slope * logits[out] + fitted.offset, label[out]).sum())
    return total


def _fit(kind: str, logits: np.ndarray, label: np.ndarray) -> Calibration:
    """Maximum likelihood. Platt's targets are inside (0, 1), so that the optimum is finite even with one class."""
    platt = kind == PLATT
    target = _smoothed(label) if platt else label
    # standardised logits, so that both parameters are of the same order
    centre = float(np.median(logits)) if platt else 0.0  # exact if all logits are equal, unlike the mean
    size = float(np.sqrt(np.mean((logits - centre) ** 2))) or 1.0
    scaled = (logits - centre) / size
    bounds = [(_SLOPES[0] * size, _SLOPES[1] * size), (None, None) if platt else (0.0, 0.0)]
    start = np.array([np.clip(1.0, *bounds[0]), logit(target.mean()) if platt else 0.0])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = parameters[0] * scaled + parameters[1]
        error = expit(score) - target
        return float(_log_loss(score, target).mean()), np.array([(error * scaled).mean(), error.mean()])

    steep, shift = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=_PRECISION).x
    slope = float(np.clip(steep / size, *_SLOPES))
    return Calibration(kind, slope, float(shift - slope * centre) if platt else 0.0)


def _smoothed(label: np.ndarray) -> np.ndarray:
    """Platt's targets: (N+ + 1) / (N+ + 2) for the N+ memes labelled 1, 1 / (N- + 2) for the N- others."""
    positives = int(label.sum())
    return np.where(label == 1, (positives + 1) / (positives + 2), 1 / (len(label) - positives + 2))


def _log_loss(score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) cross-entropies of target and sigmoid(score), numerically stable."""
    return np.logaddexp(0, score) - target * score
