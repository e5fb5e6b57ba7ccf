"""Near-copies of hashes by faiss, in its own environment, for `bench.near`: all pairs, or bands of the hash.

python bench/near_peer.py all-pairs HASHES    (an .npy file, (N, 4) uint64)
"""

import json
import sys
import time

import faiss
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

_BITS, _NEAR = 256, 8
# Hashes that ask at a time.
_BLOCK = 1000


def main(way: str, file: str) -> None:
    """Print the seconds, the number of clusters and of hashes in them."""
    hashes = np.load(file)
    started = time.monotonic()
    # as ours: equal hashes once
    distinct, of = np.unique(hashes, axis=0, return_inverse=True)
    codes = distinct.view(np.uint8)
    # nine bands of 28 bits: of two hashes with eight different bits one band is equal
    index = faiss.IndexBinaryFlat(_BITS) if way == "all-pairs" else faiss.IndexBinaryMultiHash(_BITS, _NEAR + 1, 28)
    index.add(codes)
    number = np.arange(len(codes))
    for start in range(0, len(codes), _BLOCK):
        limits, _, found = index.range_search(codes[start : start + _BLOCK], _NEAR + 1)
        rows = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits.astype(np.int64)))
        apart = number[rows] != number[found]
        ends = (number[rows[apart]], number[found[apart]])
        graph = csr_array((np.ones(len(ends[0]), bool), ends), (len(codes), len(codes)))
        number = connected_components(graph, directed=False)[1][number]
    counts = np.bincount(number[of.ravel()])
    sizes = [int((counts > 1).sum()), int(counts[counts > 1].sum())]
    print(json.dumps({"seconds": round(time.monotonic() - started, 2), "sizes": sizes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
