"""Near-duplicate memes, found in their vectors, so that duplicates are never on both sides of a fold.

Similarity is relative to the spread of the data's own vectors. Memes of one template are distinguished from duplicates only
as well as the encoder distinguishes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv
from tqdm import tqdm

from cache import text_key

# Similarity from which two vectors are duplicates. On 593 memes of MultiOFF, against the audit's picture hashes and shared
# words: of 14 pairs of pictures the demo's encoder joins 14, a ViT-B-32 with random weights 13; of 29 pairs of texts both
# join 19, a sentence encoder 24, with 2 wrong pairs in all. At 0.95 texts fall to 10, 5 and 22; at 0.85 twice as many merely
# similar pictures are joined.
_NEAR = 0.9
# Further components are noise; with more than a quarter as many components as vectors, whitening overfits and separates
# duplicates (both measured on the same memes).
_COMPONENTS, _VECTORS_PER_COMPONENT = 64, 4
# Components below this share of the first one's variance are float32 rounding.
_WEAKEST = 1e-6
# Expected number of false pairs per data set if vectors were random; with few components it raises the bar above _NEAR.
_CHANCE_PAIRS = 0.01
# A group holds at most one in so many memes: larger ones unbalance the folds, and what so many memes share (a template, the
# vector of "no text") does not make them duplicates.
_LARGEST_SHARE = 10
# Near pairs kept per vector: they connect the group as well, and bound the memory.
_NEIGHBOURS = 32
# Block sizes of about a hundred megabytes: rows compared with all others, rows in float64, pairs.
_ROWS, _SUM_ROWS, _PAIRS = 256, 8192, 8192


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of indices (P, 2) int64, lower one first, and their similarities (P,), 1 for equal vectors."""

    pairs: np.ndarray
    similarity: np.ndarray


def duplicate_groups(
    image: np.ndarray, text: np.ndarray, image_keys: Sequence[str], text_keys: Sequence[str]
) -> np.ndarray:
    """(N,) int64 group of each meme: the index of its first member. Groups are connected components of duplicates.

    image: (N, Di), text: (N, Dt) float32, finite. Memes are joined, most similar first, if they share a key, or equal or near
    picture or text vectors. The key "", the zero vector, the empty text, and what more than a tenth of the memes (and more
    than two) share join nothing; no group becomes larger than that.

    Two vectors are near if, at unit length and centred, both their cosine and, in the whitened leading principal components,
    2ab / (aa + bb) reach 0.9; whitening makes the measure independent of the encoder's narrow cone. Compares all pairs:
    100,000 memes take one to two minutes on two cores. Raises ValueError for lengths that differ.
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
    similarity = np.concatenate([found.similarity for found in near])
    for one, other in pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))].tolist():
        groups.join(one, other)
    return groups.numbers()


class _Groups:
    """Union-find over memes; a group is named by its first meme and holds at most `largest` memes."""

    def __init__(self, count: int, largest: int) -> None:
        self.largest = largest
        self._parent = list(range(count))
        self._size = [1] * count

    def join(self, one: int, other: int) -> None:
        """Merge the groups of two memes, unless the result would be too large."""
        low, high = sorted((self._root(one), self._root(other)))
        if low != high and self._size[low] + self._size[high] <= self.largest:
            self._parent[high] = low
            self._size[low] += self._size[high]

    def join_equal(self, keys: Sequence[str | bytes | None]) -> np.ndarray:
        """Join memes that share a key, unless too many share it; the first meme (M,) of each such key. None joins nothing."""
        members: dict[str | bytes, list[int]] = {}
        for place, key in enumerate(keys):
            if key is not None:
                members.setdefault(key, []).append(place)
        shared = [places for places in members.values() if len(places) <= self.largest]
        for first, *others in shared:
            for place in others:
                self.join(first, place)
        return np.array([places[0] for places in shared], np.int64)

    def numbers(self) -> np.ndarray:
        """(N,) int64: the first meme of each meme's group."""
        return np.array([self._root(place) for place in range(len(self._parent))], np.int64)

    def _root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]  # path halving
            place = self._parent[place]
        return place


def _vector_keys(vectors: np.ndarray, keys: Sequence[str]) -> list[bytes | None]:
    """The bytes of each vector; None for zero vectors and the empty text."""
    empty = text_key("")
    nonzero = np.asarray(vectors.any(axis=1))
    return [row.tobytes() if usable and key != empty else None for row, usable, key in zip(vectors, nonzero, keys)]


def _near_pairs(vectors: np.ndarray, keys: list[bytes | None], groups: _Groups, side: str) -> _Pairs:
    """Join memes with equal vectors; return pairs of memes with near vectors, one per pair of distinct vectors."""
    first = groups.join_equal(keys)
    components = min(_COMPONENTS, len(first) // _VECTORS_PER_COMPONENT)
    if components < 2:  # in one dimension random vectors are near
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    centred = _centred(vectors[first])
    white = _whitened(centred, components)
    if white.shape[1] < 2:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    found = _candidates(white, _bar(*white.shape), groups.largest, side)
    similarity = np.minimum(found.similarity, _cosines(centred, found.pairs))
    near = similarity >= _NEAR
    return _Pairs(first[found.pairs[near]], similarity[near])


def _centred(vectors: np.ndarray) -> np.ndarray:
    """(M, D) float32: the vectors at unit length, centred."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit -= unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    return unit


def _whitened(centred: np.ndarray, components: int) -> np.ndarray:
    """(M, K) float32: at most `components` leading principal components, each of variance 1."""
    covariance = np.zeros((centred.shape[1],) * 2)
    for start in range(0, len(centred), _SUM_ROWS):
        block = centred[start : start + _SUM_ROWS].astype(np.float64)
        covariance += block.T @ block / len(centred)
    variance, axes = np.linalg.eigh(covariance)  # ascending
    significant = variance[-components:] > max(_WEAKEST * variance[-1], np.finfo(np.float32).tiny)
    return centred @ (axes[:, -components:][:, significant] / np.sqrt(variance[-components:][significant])).astype(
        np.float32
    )


def _bar(count: int, components: int) -> float:
    """The similarity required of two of `count` whitened vectors: _NEAR, or more where random vectors would reach that.

    A random pair's cosine in K dimensions exceeds t with probability I(1 - t^2; (K - 1) / 2, 1 / 2) / 2, where I is the
    regularised incomplete beta function; 2ab / (aa + bb) is never above the cosine.
    """
    chance = _CHANCE_PAIRS / (count * (count - 1) / 2)
    return max(_NEAR, float(np.sqrt(1 - betaincinv((components - 1) / 2, 0.5, 2 * chance))))


def _candidates(white: np.ndarray, bar: float, largest: int, side: str) -> _Pairs:
    """The pairs of (M, K) whitened vectors whose 2ab / (aa + bb) reaches the bar.

    Vectors with at least `largest` near ones are left out; each other one contributes its nearest _NEIGHBOURS.
    """
    square = np.einsum("ij,ij->i", white, white)
    half, one = (bar / 2 * square)[:, None], np.ones((len(white), 1), np.float32)
    # left @ right >= 0 where ab >= bar (aa + bb) / 2
    left, right = np.hstack([white, -half, one]).astype(np.float32), np.hstack([white, one, -half]).astype(np.float32).T
    crowded = np.zeros(len(white), bool)
    found: list[np.ndarray] = []
    for start in tqdm(range(0, len(white), _ROWS), f"comparing {side}", delay=1, mininterval=1):
        near = left[start : start + _ROWS] @ right >= 0
        near[np.arange(len(near)), start + np.arange(len(near))] = False
        degree = np.count_nonzero(near, axis=1)
        crowded[start : start + _ROWS] = degree >= largest  # with the vector itself, more than a group may hold
        near[degree >= largest] = False
        found.append(_nearest(white, square, np.argwhere(near) + (start, 0)))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    pairs = pairs[~crowded[pairs].any(axis=1)]
    return _Pairs(pairs, _similarity(white, square, pairs))


def _nearest(white: np.ndarray, square: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of the pairs (P, 2), those with the nearest _NEIGHBOURS of each first vector."""
    if len(pairs) == 0:
        return pairs
    order = np.lexsort((pairs[:, 1], -_similarity(white, square, pairs), pairs[:, 0]))
    pairs = pairs[order]
    starts = np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[np.arange(len(pairs)) - starts < _NEIGHBOURS]


def _similarity(white: np.ndarray, square: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) float32: 2ab / (aa + bb) of each pair."""
    one, other = pairs.T
    # two vectors equal to the mean have similarity 0
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
