"""References that learn nothing from the memes but their share: CLIP's own answer, and the majority class. Not shipped."""

from functools import partial

import numpy as np
from scipy.special import logit

from head.candidates.data import CandidateData, mean_of
from head.data.features import Features
from head.model.method import Method


def zero_shot(given: CandidateData) -> Method | None:
    """How much nearer picture and text together are to the prompts of one label than to those of the other, as Radford
    et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), classify pictures, with the
    mean of several prompts a label. None without prompts or a shared space."""
    joint = given.features.joint
    if not given.prompts or not joint:
        return None
    offensive, other = (
        _unit(_unit(given.prompts[label][:, -joint:]).mean(axis=0)) for label in ("offensive", "non-offensive")
    )

    score = partial(_along, (offensive - other).astype(np.float64))
    rows = [held for _, held in given.members]
    return Method(mean_of(len(given.features), [(held, score(given.features.at(held))) for held in rows]), score)


def majority(given: CandidateData) -> Method:
    """The share of offensive memes, for every meme."""
    share = float(logit(given.features.label.mean()))
    out = mean_of(len(given.features), [(held, np.full(len(held), share)) for _, held in given.members])
    return Method(out, partial(_always, share))


def _along(direction: np.ndarray, memes: Features) -> np.ndarray:
    """(N,) how far both sides together point in a direction (J,) of the shared space."""
    joint = len(direction)
    return _unit(_unit(memes.image[:, -joint:]) + _unit(memes.text[:, -joint:])).astype(np.float64) @ direction


def _always(share: float, memes: Features) -> np.ndarray:
    return np.full(len(memes), share)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
