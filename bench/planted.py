"""Memes that never were: vectors of CLIP's sizes in which a known rule hides, so that the best AUROC there is is known.

Each side is a few dozen latent numbers, the first of them strongest, seen through a random matrix, with noise in every
column: most of the variance lies in few directions, as in an encoder's vectors. The label follows the product of the
sides' latent numbers, and a little of the picture's own, plus noise.
"""

import numpy as np

from head.data.features import Features
from head.data.ranking import auroc

IMAGE_DIM, TEXT_DIM = 1024, 768
# Latent numbers a side, of which so many speak to each other through their products.
_LATENT, _PAIRS = 40, 4
_NOISE = 0.3
_LABEL_NOISE = 0.7


def planted(count: int, seed: int) -> tuple[Features, float]:
    """`count` memes of one world, drawn by `seed`, all in train; and the AUROC of who knows the rule."""
    world = np.random.default_rng(0)
    strength = 1 / np.sqrt(1 + np.arange(_LATENT))
    mixes = [world.normal(size=(_LATENT, dim)) * strength[:, None] for dim in (IMAGE_DIM, TEXT_DIM)]
    drawn = np.random.default_rng([seed, count])
    sides = drawn.normal(size=(2, count, _LATENT))
    image, text = (
        (side @ mix + _NOISE * drawn.normal(size=(count, mix.shape[1]))).astype(np.float32)
        for side, mix in zip(sides, mixes)
    )
    rule = (sides[0, :, :_PAIRS] * sides[1, :, :_PAIRS]).sum(axis=1) / np.sqrt(_PAIRS) + 0.5 * sides[0, :, 0]
    label = (rule + _LABEL_NOISE * drawn.normal(size=count) > 0).astype(np.int64)
    ids = np.array([f"m{number}" for number in range(count)])
    features = Features(ids, image, text, label, np.full(count, "train"), np.arange(count), np.full(count, ""))
    return features, auroc(label, rule) or 0.0
