"""Synthetic embeddings with a known label rule, so that the best possible AUROC is known.

Each side is a random linear map of 40 latent variables of decreasing strength plus noise in every column, so most
variance lies in few directions, as in an encoder's vectors. In `planted` the label depends on products of the sides'
latent variables, on one of the picture's own, and on noise.
"""

from functools import cache

import numpy as np

from head.data.features import Features
from head.data.ranking import auroc

IMAGE_DIM, TEXT_DIM = 1024, 768
# Latent variables per side, and how many of them interact through products.
_LATENT, _PAIRS = 40, 4
_NOISE = 0.3
_LABEL_NOISE = 0.7


def planted(count: int, seed: int) -> tuple[Features, float]:
    """`count` memes, image (N, 1024) and text (N, 768) float32, all in train; and the AUROC of the label rule."""
    world = np.random.default_rng(0)
    strength = 1 / np.sqrt(1 + np.arange(_LATENT))
    mixes = [world.normal(size=(_LATENT, dim)) * strength[:, None] for dim in (IMAGE_DIM, TEXT_DIM)]
    drawn = np.random.default_rng([seed, count])
    latents = drawn.normal(size=(2, count, _LATENT))
    image, text = (
        (side @ mix + _NOISE * drawn.normal(size=(count, mix.shape[1]))).astype(np.float32)
        for side, mix in zip(latents, mixes)
    )
    rule = (latents[0, :, :_PAIRS] * latents[1, :, :_PAIRS]).sum(axis=1) / np.sqrt(_PAIRS) + 0.5 * latents[0, :, 0]
    label = (rule + _LABEL_NOISE * drawn.normal(size=count) > 0).astype(np.int64)
    ids = np.array([f"m{number}" for number in range(count)])
    features = Features(ids, image, text, label, np.full(count, "train"), np.arange(count), np.full(count, ""))
    return features, auroc(label, rule) or 0.0


RULES = ("agreement", "image", "text", "both", "noise")
# Length of the mean vectors (cones) in units of sqrt(D), and their common share. They reproduce the mean cosines of
# OpenAI's ViT-L/14 on real pictures and texts: .65 between pictures, .40 between texts, .18 across.
_CONES, _COMMON = (4.4, 2.7), 0.75
# Latent variables that carry the label, and their correlation between agreeing sides.
_CARRYING, _AGREEING = 8, 0.6


def clip_like(count: int, seed: int, rule: str, dim: int = 768) -> tuple[Features, float]:
    """`count` memes with the geometry of CLIP's joint space, (N, dim) float32, all in train; and the rule's AUROC.

    Both sides use one linear map, since they share a space; each lies in its own cone, far from the origin and from the
    other's (the modality gap). rule: one of RULES; label 1 means that the sides' first latent variables agree, or
    depends on those of one side, of both, or on none.
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


def trust_features(rule: str, prevalence: float, count: int, seed: int, exact: bool = False) -> tuple[Features, float]:
    """`count` memes, (N, 96) float32, with labels by one of TRUST_RULES, all in train; and the rule's AUROC.

    linear: sum of both sides' first latent variables; interaction: products of them; mixed: both; noise: none; clip:
    both, in the geometry of `clip_like`. exact: the share of label 1 equals the prevalence instead of its expectation.
    """
    world, shared = np.random.default_rng(2), rule == "clip"
    strength = 1 / np.sqrt(1 + np.arange(_LATENT) / 4)
    mixes = world.normal(size=(2, _LATENT, _WIDTH)) * strength[:, None]
    cones = world.normal(size=(2, _WIDTH)) + _COMMON * world.normal(size=_WIDTH)
    cones *= np.sqrt(_WIDTH) * np.array(_CONES)[:, None] / np.linalg.norm(cones, axis=1, keepdims=True)
    drawn = np.random.default_rng([seed, count, TRUST_RULES.index(rule)])
    threshold = _threshold(rule, prevalence)
    latents, known, noisy = _rule_scores(rule, drawn, 4 * count if exact else count)
    label = (noisy > threshold).astype(np.int64)
    if exact:
        wanted = (round(prevalence * count), count - round(prevalence * count))
        kept = np.sort(np.concatenate([np.flatnonzero(label == value)[:n] for value, n in zip((1, 0), wanted)]))
        assert len(kept) == count
        latents, known, label = latents[:, kept], known[kept], label[kept]
    image, text = (
        (shared * cone + side @ mix + _NOISE * drawn.normal(size=(count, _WIDTH))).astype(np.float32)
        for cone, side, mix in zip(cones, latents, (mixes[0], mixes[0] if shared else mixes[1]))
    )
    ids, nothing = np.array([f"m{number}" for number in range(count)]), np.full(count, "")
    joint = _WIDTH if shared else 0
    features = Features(ids, image, text, label, np.full(count, "train"), np.arange(count), nothing, joint=joint)
    return features, auroc(label, known) or 0.5


@cache
def _threshold(rule: str, prevalence: float) -> float:
    """The threshold on the noisy rule score that gives this prevalence."""
    return float(np.quantile(_rule_scores(rule, np.random.default_rng(3), 200_000)[2], 1 - prevalence))


def _rule_scores(rule: str, drawn: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(2, N, L) latent variables, (N,) rule scores, and (N,) rule scores with noise."""
    latents = drawn.normal(size=(2, count, _LATENT))
    linear = latents[:, :, :_CARRYING].sum(axis=(0, 2)) / np.sqrt(2 * _CARRYING)
    products = (latents[0, :, :_PAIRS] * latents[1, :, :_PAIRS]).sum(axis=1) / np.sqrt(_PAIRS)
    parts = {"linear": (1, 0), "interaction": (0, 1), "noise": (0, 0)}.get(rule, (np.sqrt(0.5), np.sqrt(0.5)))
    known = parts[0] * linear + parts[1] * products
    return latents, known, known + _LABEL_NOISE * drawn.normal(size=count)
