"""Memes that never were: vectors of CLIP's sizes in which a known rule hides, so that the best AUROC there is is known.

Each side is a few dozen latent numbers, the first of them strongest, seen through a random matrix, with noise in every
column: most of the variance lies in few directions, as in an encoder's vectors. The label follows the product of the
sides' latent numbers, and a little of the picture's own, plus noise.
"""

from functools import cache

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


RULES = ("agreement", "image", "text", "both", "noise")
# Cosines of OpenAI's ViT-L/14 on real pictures and texts: .65 within the pictures, .40 within the texts, .18 across. So long
# are the cones in parts of sqrt(D), and so much of their directions is common.
_CONES, _COMMON = (4.4, 2.7), 0.75
# How many latent numbers carry the label, and how closely they agree in memes whose sides do.
_CARRYING, _AGREEING = 8, 0.6


def clip_like(count: int, seed: int, rule: str, dim: int = 768) -> tuple[Features, float]:
    """`count` memes whose vectors have the geometry of CLIP's joint space, all in train; and the AUROC of who knows the
    rule, one of RULES.

    Both sides see their latent numbers through one matrix, since they share a space; each lies in a cone of its own, far
    from the origin and apart from the other's (the modality gap). Label 1 says that the sides' first numbers agree, or
    follows the first numbers of one side, of both, or nothing.
    """
    world = np.random.default_rng(1)
    strength = 1 / np.sqrt(1 + np.arange(_LATENT) / 4)
    mix = world.normal(size=(_LATENT, dim)) * strength[:, None]
    cones = world.normal(size=(2, dim)) + _COMMON * world.normal(size=dim)
    cones *= np.sqrt(dim) * np.array(_CONES)[:, None] / np.linalg.norm(cones, axis=1, keepdims=True)
    weights = np.where(np.arange(_LATENT) < _CARRYING, 1 / np.sqrt(_CARRYING), 0.0)
    drawn = np.random.default_rng([seed, count, RULES.index(rule)])
    image, text = drawn.normal(size=(2, count, _LATENT))
    if rule == "agreement":
        label = np.arange(count) % 2
        first = slice(0, _CARRYING)
        together = _AGREEING * image[:, first] + np.sqrt(1 - _AGREEING**2) * text[:, first]
        text[:, first] = np.where(label[:, None] == 1, together, text[:, first])
        known = -((text - _AGREEING * image)[:, first] ** 2) / (1 - _AGREEING**2) + text[:, first] ** 2
        rule_score = known.sum(axis=1)
    else:
        rule_score = {"image": image, "text": text, "both": image + text, "noise": 0 * image}[rule] @ weights
        label = (rule_score + _LABEL_NOISE * drawn.normal(size=count) > 0).astype(np.int64)
    seen = [
        (cone + side @ mix + _NOISE * drawn.normal(size=(count, dim))).astype(np.float32)
        for cone, side in zip(cones, (image, text))
    ]
    ids = np.array([f"m{number}" for number in range(count)])
    nothing = np.full(count, "")
    features = Features(ids, seen[0], seen[1], label, np.full(count, "train"), np.arange(count), nothing, joint=dim)
    return features, auroc(label, rule_score) or 0.0


TRUST_RULES = ("linear", "interaction", "mixed", "noise", "clip")
_WIDTH = 96


def trusted(rule: str, prevalence: float, count: int, seed: int, exact: bool = False) -> tuple[Features, float]:
    """`count` memes of narrow vectors whose labels follow one of TRUST_RULES, all in train; and the AUROC of who knows it.

    linear: a sum of both sides' first numbers; interaction: products of them; mixed: both; noise: nothing; clip: sum and
    products, in the geometry of `clip_like`. exact: the share of label 1 is the prevalence, and not only about that.
    """
    world, shared = np.random.default_rng(2), rule == "clip"
    strength = 1 / np.sqrt(1 + np.arange(_LATENT) / 4)
    mixes = world.normal(size=(2, _LATENT, _WIDTH)) * strength[:, None]
    cones = world.normal(size=(2, _WIDTH)) + _COMMON * world.normal(size=_WIDTH)
    cones *= np.sqrt(_WIDTH) * np.array(_CONES)[:, None] / np.linalg.norm(cones, axis=1, keepdims=True)
    drawn = np.random.default_rng([seed, count, TRUST_RULES.index(rule)])
    bar = _bar(rule, prevalence)
    sides, known, noisy = _followed(rule, drawn, 4 * count if exact else count)
    label = (noisy > bar).astype(np.int64)
    if exact:
        wanted = (round(prevalence * count), count - round(prevalence * count))
        kept = np.sort(np.concatenate([np.flatnonzero(label == value)[:n] for value, n in zip((1, 0), wanted)]))
        assert len(kept) == count
        sides, known, label = sides[:, kept], known[kept], label[kept]
    image, text = (
        (shared * cone + side @ mix + _NOISE * drawn.normal(size=(count, _WIDTH))).astype(np.float32)
        for cone, side, mix in zip(cones, sides, (mixes[0], mixes[0] if shared else mixes[1]))
    )
    ids, nothing = np.array([f"m{number}" for number in range(count)]), np.full(count, "")
    joint = _WIDTH if shared else 0
    features = Features(ids, image, text, label, np.full(count, "train"), np.arange(count), nothing, joint=joint)
    return features, auroc(label, known) or 0.5


@cache
def _bar(rule: str, prevalence: float) -> float:
    """Above it lies this share of what the label follows."""
    return float(np.quantile(_followed(rule, np.random.default_rng(3), 200_000)[2], 1 - prevalence))


def _followed(rule: str, drawn: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(2, N, L) latent numbers, (N,) what the label follows, and the same with noise."""
    sides = drawn.normal(size=(2, count, _LATENT))
    linear = sides[:, :, :_CARRYING].sum(axis=(0, 2)) / np.sqrt(2 * _CARRYING)
    products = (sides[0, :, :_PAIRS] * sides[1, :, :_PAIRS]).sum(axis=1) / np.sqrt(_PAIRS)
    parts = {"linear": (1, 0), "interaction": (0, 1), "noise": (0, 0)}.get(rule, (np.sqrt(0.5), np.sqrt(0.5)))
    known = parts[0] * linear + parts[1] * products
    return sides, known, known + _LABEL_NOISE * drawn.normal(size=count)
