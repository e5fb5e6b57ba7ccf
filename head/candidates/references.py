"""Baselines that are not fitted to vectors and never ship: CLIP's zero-shot prompts, and the majority class."""

from functools import partial

import numpy as np
from scipy.special import logit

from head.candidates.data import CandidateData, mean_of
from head.data.features import Features
from head.model.method import Method


def zero_shot(data: CandidateData) -> Method | None:
    """Cosine of the sum of both sides with the mean prompt of "offensive", less that with the mean prompt of "non-offensive":
    zero-shot classification with prompt ensembles (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021). None without prompts or a shared space."""
    joint = data.features.joint
    if not data.prompts or not joint:
        return None
    offensive, other = (
        _unit(_unit(data.prompts[label][:, -joint:]).mean(axis=0)) for label in ("offensive", "non-offensive")
    )

    score = partial(_projection, (offensive - other).astype(np.float64))
    rows = [held for _, held in data.members]
    return Method(mean_of(len(data.features), [(held, score(data.features.at(held))) for held in rows]), score)


def majority(data: CandidateData) -> Method:
    """The prevalence of offensive memes, as a constant logit."""
    share = float(logit(data.features.label.mean()))
    out = mean_of(len(data.features), [(held, np.full(len(held), share)) for _, held in data.members])
    return Method(out, partial(_constant, share))


def _projection(direction: np.ndarray, memes: Features) -> np.ndarray:
    """(N,) scalar products of the unit sum of both sides with a direction (J,) of the shared space."""
    joint = len(direction)
    return _unit(_unit(memes.image[:, -joint:]) + _unit(memes.text[:, -joint:])).astype(np.float64) @ direction


def _constant(share: float, memes: Features) -> np.ndarray:
    return np.full(len(memes), share)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
