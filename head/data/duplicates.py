"""Near-duplicate memes, found in their vectors, so that a copy never stands on both sides of a fold.

It does not know the pictures, the words or the encoder: "near" is measured against how the data's own vectors spread.
Memes of one template are told from copies only as well as the encoder tells them. `python -m head tune` calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv
from tqdm import tqdm

from cache import text_key

# Measured on 593 memes of MultiOFF against the clusters of the audit's picture hashes and shared words: of 14 pairs of
# pictures the demo's encoder joins 14, a ViT-B-32 of random weights 13; of 29 pairs of texts the demo's encoder and the
# random one join 19 each, a sentence encoder 24, with 2 wrong pairs in all. At 0.95 texts fall to 10, 5 and 22; at 0.85
# twice as many pictures are joined that only resemble each other, which is harmless but for the size of the groups.
_NEAR = 0.9
# Components beyond these tell noise from noise; with more than a quarter as many components as vectors, whitening
# drives copies apart, for it fits the few of them (both measured, likewise).
_COMPONENTS, _VECTORS_PER_COMPONENT = 64, 4
# A component this much weaker than the first, in variance, is rounding of float32.
_WEAKEST = 1e-6
# Pairs that chance may bring near, per data set, were the vectors random: few components put the bar above _NEAR.
_CHANCE_PAIRS = 0.01
# A group may hold this share of the memes: beyond it a fold can be neither balanced nor without a class, and what so
# many memes share (a template, the vector of "no text") does not make them copies.
_LARGEST_SHARE = 10
# Of a vector's near ones so many are kept: they connect the group just as well, and memory does not grow with N x N.
_NEIGHBOURS = 32
# Blocks of some hundred megabytes: rows compared with all others, rows turned to float64, pairs looked at in full.
_ROWS, _SUM_ROWS, _PAIRS = 256, 8192, 8192


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of numbers (P, 2) int64, lower one first, and how alike the two are (P,), 1 for the same."""

    pairs: np.ndarray
    alike: np.ndarray


def duplicate_groups(
    image: np.ndarray, text: np.ndarray, image_keys: Sequence[str], text_keys: Sequence[str]
) -> np.ndarray:
    """(N,) int64: memes that are copies of each other bear one number, that of the first meme among them.

    image: (N, Di), text: (N, Dt) float32, finite. Memes are joined, the most alike first, when they share a key, or a
    picture vector, or a text vector, exactly or nearly. The key "" and the zero vector join nothing, nor does the empty
    text, nor what more than a tenth of the memes (and more than two) share; no group becomes larger than that.

    Two vectors are near when, of unit length and centred by their mean, both their cosine and, in the whitened leading
    principal components, 2ab / (aa + bb) reach 0.9: whitened, the narrow cone of an encoder is as wide as any.
    Compares all with all: 100,000 memes take one to two minutes on two cores. Raises ValueError for lengths that differ.
    """
    lengths = [len(side) for side in (image, text, image_keys, text_keys)]
    if len(set(lengths)) != 1:
        raise ValueError(f"expected as many vectors and keys of pictures and texts, got {lengths}")
    count = len(image)
    groups = _Groups(count, max(2, count // _LARGEST_SHARE))
    near = []
    for side, vectors, keys in (("pictures", image, image_keys), ("texts", text, text_keys)):
        groups.join_equal([key if key not in ("", text_key("")) else None for key in keys])
        near.append(_near_pairs(vectors, _vector_keys(vectors, keys), groups, side))
    pairs = np.concatenate([found.pairs for found in near])
    alike = np.concatenate([found.alike for found in near])
    for one, other in pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -alike))].tolist():
        groups.join(one, other)
    return groups.numbers()


class _Groups:
    """Which meme belongs to which group; a group is known by its first meme and holds at most `largest` memes."""

    def __init__(self, count: int, largest: int) -> None:
        self.largest = largest
        self._parent = list(range(count))
        self._size = [1] * count

    def join(self, one: int, other: int) -> None:
        """Make one group of the groups of two memes, unless it would be too large."""
        low, high = sorted((self._root(one), self._root(other)))
        if low != high and self._size[low] + self._size[high] <= self.largest:
            self._parent[high] = low
            self._size[low] += self._size[high]

    def join_equal(self, keys: Sequence[str | bytes | None]) -> np.ndarray:
        """Join memes that share a key; the first meme (M,) of each key that not too many share. None joins nothing."""
        members: dict[str | bytes, list[int]] = {}
        for place, key in enumerate(keys):
            if key is not None:
                members.setdefault(key, []).append(place)
        kept = [places for places in members.values() if len(places) <= self.largest]
        for first, *others in kept:
            for place in others:
                self.join(first, place)
        return np.array([places[0] for places in kept], np.int64)

    def numbers(self) -> np.ndarray:
        """(N,) int64: the first meme of each meme's group."""
        return np.array([self._root(place) for place in range(len(self._parent))], np.int64)

    def _root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]  # halve the path, so that long chains stay cheap
            place = self._parent[place]
        return place


def _vector_keys(vectors: np.ndarray, keys: Sequence[str]) -> list[bytes | None]:
    """The bytes of each vector that can tell copies: not those of zero vectors and of the empty text."""
    empty = text_key("")
    tells = np.asarray(vectors.any(axis=1))
    return [row.tobytes() if told and key != empty else None for row, told, key in zip(vectors, tells, keys)]


def _near_pairs(vectors: np.ndarray, keys: list[bytes | None], groups: _Groups, side: str) -> _Pairs:
    """Join the memes of equal vectors; the pairs of memes whose vectors are near, once for each pair of vectors."""
    first = groups.join_equal(keys)
    components = min(_COMPONENTS, len(first) // _VECTORS_PER_COMPONENT)
    if components < 2:  # on a line, chance alone brings vectors near
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    centred = _centred(vectors[first])
    white = _whitened(centred, components)
    if white.shape[1] < 2:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    found = _candidates(white, _bar(*white.shape), groups.largest, side)
    alike = np.minimum(found.alike, _cosines(centred, found.pairs))
    kept = alike >= _NEAR
    return _Pairs(first[found.pairs[kept]], alike[kept])


def _centred(vectors: np.ndarray) -> np.ndarray:
    """(M, D) float32: the vectors at unit length, less their mean."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit -= unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    return unit


def _whitened(centred: np.ndarray, components: int) -> np.ndarray:
    """(M, K) float32: the leading principal components, K at most `components`, each of variance 1."""
    covariance = np.zeros((centred.shape[1],) * 2)
    for start in range(0, len(centred), _SUM_ROWS):
        block = centred[start : start + _SUM_ROWS].astype(np.float64)
        covariance += block.T @ block / len(centred)
    variance, axes = np.linalg.eigh(covariance)  # ascending
    kept = variance[-components:] > max(_WEAKEST * variance[-1], np.finfo(np.float32).tiny)
    return centred @ (axes[:, -components:][:, kept] / np.sqrt(variance[-components:][kept])).astype(np.float32)


def _bar(count: int, components: int) -> float:
    """How alike two of `count` whitened vectors must be: _NEAR, or more where random vectors would reach that.

    A random pair's cosine in K dimensions exceeds t with probability I(1 - t^2; (K - 1) / 2, 1 / 2) / 2, where I is the
    regularised incomplete beta function; 2ab / (aa + bb) is never above the cosine.
    """
    chance = _CHANCE_PAIRS / (count * (count - 1) / 2)
    return max(_NEAR, float(np.sqrt(1 - betaincinv((components - 1) / 2, 0.5, 2 * chance))))


def _candidates(white: np.ndarray, bar: float, largest: int, side: str) -> _Pairs:
    """The pairs of (M, K) whitened vectors whose 2ab / (aa + bb) reaches the bar.

    A vector with more than `largest` near ones is in none; of the others, each brings its nearest _NEIGHBOURS.
    """
    square = np.einsum("ij,ij->i", white, white)
    half, one = (bar / 2 * square)[:, None], np.ones((len(white), 1), np.float32)
    # one product that is at least 0 where ab >= bar (aa + bb) / 2
    left, right = np.hstack([white, -half, one]).astype(np.float32), np.hstack([white, one, -half]).astype(np.float32).T
    crowded = np.zeros(len(white), bool)
    found: list[np.ndarray] = []
    for start in tqdm(range(0, len(white), _ROWS), f"comparing {side}", delay=1, mininterval=1):
        near = left[start : start + _ROWS] @ right >= 0
        near[np.arange(len(near)), start + np.arange(len(near))] = False
        degree = np.count_nonzero(near, axis=1)
        crowded[start : start + _ROWS] = degree >= largest  # with itself they are more than a group may hold
        near[degree >= largest] = False
        found.append(_nearest(white, square, np.argwhere(near) + (start, 0)))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    pairs = pairs[~crowded[pairs].any(axis=1)]
    return _Pairs(pairs, _likeness(white, square, pairs))


def _nearest(white: np.ndarray, square: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of the pairs (P, 2), those to the nearest _NEIGHBOURS of each first vector."""
    if len(pairs) == 0:
        return pairs
    order = np.lexsort((pairs[:, 1], -_likeness(white, square, pairs), pairs[:, 0]))
    pairs = pairs[order]
    starts = np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[np.arange(len(pairs)) - starts < _NEIGHBOURS]


def _likeness(white: np.ndarray, square: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) float32: 2ab / (aa + bb) of each pair."""
    one, other = pairs.T
    # two vectors that are nothing but the mean are not alike
    return 2 * _products(white, pairs) / np.maximum(square[one] + square[other], np.finfo(np.float32).tiny)


def _cosines(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) float32: the cosine of each pair; 0 where either is zero."""
    length = np.linalg.norm(vectors, axis=1)
    lengths = length[pairs].prod(axis=1)
    return _products(vectors, pairs) / np.where(lengths > 0, lengths, np.inf)


def _products(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) float32: the scalar product of each pair."""
    products = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _PAIRS):
        one, other = pairs[start : start + _PAIRS].T
        products[start : start + _PAIRS] = np.einsum("ij,ij->i", vectors[one], vectors[other])
    return products
