"""Cluster items of which some pairs are near, comparing only pairs that share a key and never listing all pairs.

A search begins with one run of all items. A run is split into runs of equal keys, such that near items share a key,
as long as that saves comparisons; then its items are compared, except those already in one cluster. The result is
exact: the connected components of all near pairs.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Runs up to this size are compared without an attempt to split them.
_SMALL = 64
# Cost of one entry of a split, in comparisons: its key is computed and sorted, twice.
_ENTRY_COST = 40


class Entries(NamedTuple):
    """Items (E,) int32 in runs; marks (E,) int32: how far the keys of each item are used, for `Space.split`."""

    items: np.ndarray
    marks: np.ndarray

    def at(self, places: np.ndarray) -> "Entries":
        """The entries at `places`, (F,) bool or indices."""
        return Entries(self.items[places], self.marks[places])


class Space(Protocol):
    """Items that are compared.

    codes: (N, 4) uint64; the codes of two near items differ in at most the sum of their allowances, (N,) float32, bits.
    """

    codes: np.ndarray
    allowances: np.ndarray

    def split(self, entries: Entries, state: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Any]]:
        """Partial covers of a run, which together have each pair of near items under one key.

        Yields (F,) indices of entries, their keys (F,) uint64 below 2**32, their marks, and the state of the next split.
        """

    def near(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(P,) bool: which pairs are near, of those whose codes allow it."""


class Clusters:
    """Union-find over N items."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int32)

    def find(self, items: np.ndarray) -> np.ndarray:
        """(M,) int32: the representative of each item's cluster."""
        root = self._parent[items]
        while not np.array_equal(higher := self._parent[root], root):
            root = higher
        self._parent[items] = root
        return root

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Merge the clusters of each pair of items, (P,) and (P,)."""
        names, ends = np.unique(np.stack([self.find(one), self.find(other)]), return_inverse=True)
        graph = coo_array((np.ones(len(one), bool), ends.reshape(2, -1)), (len(names), len(names)))
        part = connected_components(graph, directed=False)[1]
        first = np.unique(part, return_index=True)[1]
        self._parent[names] = names[first[part]]


def join_near(space: Space, state: Any) -> np.ndarray:
    """(N,) int32: the cluster of each item; each is near another one of its cluster. state: of the first split."""
    items = np.arange(len(space.codes), dtype=np.int32)
    clusters = Clusters(len(items))
    _join_runs(space, clusters, Entries(items, np.zeros_like(items)), np.zeros_like(items), state)
    return clusters.find(items)


def _join_runs(space: Space, clusters: Clusters, entries: Entries, run: np.ndarray, state: Any) -> None:
    """Join the near items of each run. run: (E,) number of each entry's run, ascending."""
    entries, run = _unfinished(clusters, entries, run)
    size = np.bincount(run)
    large = size > _SMALL
    if large.any():
        cost = np.zeros(len(size))
        part = entries.at(large[run])
        for places, keys, _, _ in space.split(part, state):
            of = run[large[run]][places]
            order, starts = _runs(of, keys)
            sizes = np.diff([*starts, len(order)])
            cost += np.bincount(of[order[starts]], sizes * (sizes - 1.0) / 2 + _ENTRY_COST * sizes, len(size))
        large &= cost < size * (size - 1.0) / 4
    split, of = entries.at(large[run]), run[large[run]]
    _compare(space, clusters, entries.items[~large[run]], run[~large[run]])
    if len(of):
        for places, keys, marks, next_state in space.split(split, state):
            order, starts = _runs(of[places], keys)
            number = np.zeros(len(order), np.int32)
            number[starts[1:]] = 1
            below = Entries(split.items[places[order]], marks[order])
            _join_runs(space, clusters, below, np.cumsum(number, dtype=np.int32), next_state)


def _runs(run: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by run and key, and the places in it where a new run begins."""
    both = (run.astype(np.uint64) << np.uint64(32)) | keys
    order = np.argsort(both)
    return order, _starts(both[order])


def _starts(values: np.ndarray) -> np.ndarray:
    """Where each series of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])


def _unfinished(clusters: Clusters, entries: Entries, run: np.ndarray) -> tuple[Entries, np.ndarray]:
    """The entries of runs that hold more than one cluster, and their runs, numbered anew."""
    several = np.bincount(run, minlength=1) > 1
    entries, run = entries.at(several[run]), run[several[run]]
    root = clusters.find(entries.items)
    mixed = np.zeros(len(several), bool)
    mixed[run[1:][(run[1:] == run[:-1]) & (root[1:] != root[:-1])]] = True
    number = np.cumsum(mixed, dtype=np.int32) - 1
    return entries.at(mixed[run]), number[run[mixed[run]]]


def _compare(space: Space, clusters: Clusters, items: np.ndarray, run: np.ndarray) -> None:
    """Compare all items of each run, (E,) and (E,), except those already in one cluster, and join the near ones."""
    while len(items):
        items, run, begin, end = _by_cluster(clusters, items, run)
        words, allowances = np.ascontiguousarray(space.codes[items].T), space.allowances[items]
        one, step, joined = np.flatnonzero(begin < end), 0, False
        while len(one):
            first, second = _close(words, allowances, one, begin[one] + step)
            joined |= _join_close(space, clusters, items[first], items[second])
            step += 1
            one = one[begin[one] + step < end[one]]
            # clusters that have grown meanwhile may make most of the rest redundant
            if joined and step & (step - 1) == 0:
                open_run = np.isin(run, run[one])
                again = _by_cluster(clusters, items[open_run], run[open_run])
                joined = False
                if (again[3] - again[2]).sum() < (end[one] - begin[one] - step).sum() / 2:
                    items, run = again[:2]
                    break
        else:
            return


def _by_cluster(
    clusters: Clusters, items: np.ndarray, run: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items and runs ordered by run and cluster, and for each the places of its run after its cluster: begin, end."""
    root = clusters.find(items)
    order = np.lexsort((root, run))
    run = run[order]
    end = _ends(run)
    begin = _ends((run.astype(np.int64) << 32) | root[order])
    return items[order], run, begin, end


def _ends(values: np.ndarray) -> np.ndarray:
    """(E,): where the series of equal values ends that each of the values is in."""
    starts = np.append(_starts(values), len(values))
    return np.repeat(starts[1:], np.diff(starts))


def _close(
    words: np.ndarray, allowances: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs (P,) and (P,) whose codes differ little enough; words: (4, E), the codes."""
    bits: np.ndarray = np.zeros(len(one), np.uint16)
    for word in words:
        bits = bits + np.bitwise_count(word[one] ^ word[other])
        kept = bits <= allowances[one] + allowances[other]
        one, other, bits = one[kept], other[kept], bits[kept]
    return one, other


def _join_close(space: Space, clusters: Clusters, one: np.ndarray, other: np.ndarray) -> bool:
    """Join the near ones of the pairs (P,) and (P,); whether there were any."""
    apart = clusters.find(one) != clusters.find(other)
    one, other = one[apart], other[apart]
    near = space.near(one, other)
    if near.any():
        clusters.join(one[near], other[near])
    return bool(near.any())
