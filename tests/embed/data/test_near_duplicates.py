"""Clusters of near pictures and texts: the same as by comparing all pairs, with far fewer comparisons."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import embed.data.clusters
from embed.data.near_duplicates import MAX_BITS, MIN_SHARED, differing_bits, near_pictures, near_texts, shared_words


@pytest.fixture(params=[(0, 0), (4, 1), (64, 40)], ids=["split all", "split most", "as it is"])
def splitting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    small, cost = request.param
    monkeypatch.setattr(embed.data.clusters, "_SMALL", small)
    monkeypatch.setattr(embed.data.clusters, "_ENTRY_COST", cost)


def all_pairs(items: list[Any], near: Callable[[Any, Any], bool]) -> list[list[int]]:
    """Clusters of two or more by comparing all pairs."""
    pairs = [(one, other) for one in range(len(items)) for other in range(one) if near(items[one], items[other])]
    ends = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1]), ends), (len(items), len(items)))
    number = connected_components(graph, directed=False)[1]
    clusters = [np.flatnonzero(number == cluster).tolist() for cluster in range(number.max(initial=-1) + 1)]
    return sorted(cluster for cluster in clusters if len(cluster) > 1)


def flip(hashes: np.ndarray, most: int, random: np.random.Generator) -> None:
    """Flip up to `most` bits of each of (N, 4) hashes."""
    for one in hashes:
        for bit in random.choice(256, random.integers(0, most + 1), replace=False):
            one[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)


def drawn_hashes(random: np.random.Generator) -> np.ndarray:
    """Up to ninety hashes around a few, one of them zero."""
    centres = random.integers(0, 2**64, (random.integers(1, 6), 4), np.uint64)
    centres[0] = 0
    hashes = centres[random.integers(0, len(centres), random.integers(1, 90))]
    flip(hashes, random.choice([0, 1, 5, MAX_BITS, 20]), random)
    return hashes


def drawn_texts(random: np.random.Generator) -> list[frozenset[str]]:
    """Up to ninety sets of words around a few, some of them small or empty."""
    vocabulary = random.choice([8, 30, 200, 2000])
    bases = [random.zipf(1.3, random.integers(0, 60)) % vocabulary for _ in range(random.integers(1, 8))]
    texts = []
    for _ in range(random.integers(1, 90)):
        numbers = set(bases[random.integers(len(bases))].tolist())
        for number in random.integers(0, vocabulary, random.integers(0, 8)).tolist():
            numbers ^= {number}
        texts.append(frozenset(f"w{number}" for number in numbers))
    return texts


@pytest.mark.usefixtures("splitting")
def test_pictures_are_clustered_as_by_all_pairs() -> None:
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        hashes = drawn_hashes(random)
        expected = all_pairs(list(hashes), lambda one, other: differing_bits(one, other) <= MAX_BITS)
        assert sorted(near_pictures(hashes)) == expected
        found += len(expected)
    assert found > 50


@pytest.mark.usefixtures("splitting")
def test_texts_are_clustered_as_by_all_pairs() -> None:
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        texts = drawn_texts(random)
        expected = all_pairs(texts, lambda one, other: bool(one) and shared_words(one, other) >= MIN_SHARED)
        assert sorted(near_texts(iter(texts))) == expected
        found += len(expected)
    assert found > 50


def test_a_hash_that_many_have_is_one_cluster_and_one_bit_more_is_none() -> None:
    hashes = np.zeros((5, 4), np.uint64)
    hashes[3, 0], hashes[4, 1] = 2 ** (MAX_BITS + 1) - 1, 2**64 - 1
    assert near_pictures(hashes) == [[0, 1, 2]]
    assert near_pictures(hashes[:0]) == []
    assert near_texts([]) == near_texts([frozenset()] * 3) == []


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of pairs of each comparison."""
    counts: list[int] = []
    close = embed.data.clusters._close

    def counted(words: Any, allowances: Any, one: np.ndarray, other: np.ndarray) -> Any:
        counts.append(len(one))
        return close(words, allowances, one, other)

    monkeypatch.setattr(embed.data.clusters, "_close", counted)
    yield counts


def test_a_few_of_all_pairs_of_hashes_are_compared(compared: list[int]) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (8000, 4), np.uint64)
    hashes[:2000] = hashes[2000:4000]
    flip(hashes[:2000], MAX_BITS, random)
    # a crowd around one hash, each near each, and a quarter of the hash that half of the pictures share
    hashes[4000:5000] = hashes[4000]
    flip(hashes[4000:5000], MAX_BITS // 2, random)
    hashes[6000:, 1] = 7
    clusters = near_pictures(hashes)
    assert sorted(map(len, clusters)) == [2] * 2000 + [1000]
    assert sum(compared) < 8000**2 / 2 / 100


def test_a_few_of_all_pairs_of_texts_are_compared(compared: list[int]) -> None:
    random = np.random.default_rng(0)
    drawn = [frozenset(f"w{n}" for n in random.zipf(1.2, 40).tolist()) for _ in range(3000)]
    crowd = [frozenset(f"c{n}" for n in range(20)) | {f"only {n}"} for n in range(1000)]
    clusters = near_texts([*drawn, *crowd, *(text | {"more"} for text in drawn[:500])])
    assert [3000, 3001] == next(cluster for cluster in clusters if 3000 in cluster)[:2]
    assert len(clusters[-1]) == 1000 or any(len(cluster) == 1000 for cluster in clusters)
    assert all(any({n, 4000 + n} <= set(cluster) for cluster in clusters) for n in range(500) if len(drawn[n]) > 5)
    assert sum(compared) < 4500**2 / 2 / 20
