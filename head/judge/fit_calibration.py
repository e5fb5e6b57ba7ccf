"""Fits a calibration, on logits of memes that the method was not fitted on.

It does not know which method made them. `python -m head tune` uses it.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from head.judge.calibration import PLATT, TEMPERATURE, Calibration

# A negative slope, likely on noise, would turn the ranking and 0 would lose it. No sensible logit is out by more.
_SLOPES = (0.01, 100.0)
# With two parameters and scaled logits the optimum is reached within a few dozen steps; far below what a figure shows.
_PRECISION = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}


def fit_calibration(logits: np.ndarray, label: np.ndarray, fold: np.ndarray) -> Calibration:
    """Temperature scaling (Guo et al. 2017) or Platt scaling (Platt 1999), whichever serves the memes held out better.

    logits: (N,), N > 1, finite. label: (N,) of 0 and 1. fold: (N,) integers. Each kind is fitted on the memes of all
    folds but one and judged by the log loss of that one, each in turn; the better is then fitted on all. With one fold
    only the memes are halved instead: judged on its own memes Platt scaling, with one parameter more, would win
    however little it is worth. Raises ValueError for shapes or values that do not fit.
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
    # Of equals the first, which has fewer parameters.
    return _fit(min((TEMPERATURE, PLATT), key=lambda kind: _held_out_loss(kind, logits, label, fold)), logits, label)


def _halves(label: np.ndarray) -> np.ndarray:
    """(N,) of 0 and 1: every other meme of either class, in the order given."""
    half = np.empty(len(label), dtype=np.int64)
    half[np.argsort(label, kind="stable")] = np.arange(len(label)) % 2
    return half


def _held_out_loss(kind: str, logits: np.ndarray, label: np.ndarray, fold: np.ndarray) -> float:
    """Sum of the log losses of every fold under the calibration of the others."""
    total = 0.0
    for number in np.unique(fold):
        out = fold == number
        fitted = _fit(kind, logits[~out], label[~out])
        total += float(_log_loss(fitted.slope * logits[out] + fitted.offset, label[out]).sum())
    return total


def _fit(kind: str, logits: np.ndarray, label: np.ndarray) -> Calibration:
    """Maximum likelihood. Platt's targets stop short of 0 and 1, so that even one class has a finite optimum."""
    platt = kind == PLATT
    target = _smoothed(label) if platt else label
    # In logits about 0 and of size 1 both parameters are of the same order, however large the logits.
    centre = float(np.median(logits)) if platt else 0.0  # unlike their mean exact where all are equal
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
    """(N,) cross-entropies of the target and sigmoid(score), without ever taking the logarithm of 0."""
    return np.logaddexp(0, score) - target * score
