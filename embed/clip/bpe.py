"""Byte-pair encoding of one word with open_clip's merges, in n log n time; open_clip's own is quadratic or worse."""

from collections import defaultdict
from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import pairwise


def merge(word: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The symbols of a word after all merges, equal to those of `open_clip.SimpleTokenizer.bpe`; changes `word`.

    word: at least one symbol; ranks: {pair of symbols: rank}. As in Sennrich et al. (2016), the pair of the lowest rank
    is merged at all its places, from left to right, before another pair is looked for. (A pair of a lower rank may
    arise meanwhile, so one heap of all places would give other tokens.)
    """
    after = list(range(1, len(word) + 1))  # index of the next symbol; a merged one takes the place of its left part
    before = list(range(-1, len(word) - 1))
    places = defaultdict[int, list[int]](list)  # {rank: indexes of left parts}; outdated ones are skipped below
    waiting: list[int] = []  # heap of the ranks in `places`

    def found(left: int, right: int) -> None:
        rank = ranks.get((word[left], word[right]))
        if rank is not None:
            if rank not in places:
                heappush(waiting, rank)
            places[rank].append(left)

    for left, right in pairwise(range(len(word))):
        found(left, right)
    while waiting:
        rank = heappop(waiting)
        merged = []
        for left in sorted(places.pop(rank)):
            right = after[left]
            if right == len(word) or ranks.get((word[left], word[right])) != rank:
                continue
            word[left], word[right] = word[left] + word[right], ""
            after[left] = after[right]
            if after[right] < len(word):
                before[after[right]] = left
            merged.append(left)
        for left in merged:
            if before[left] >= 0:
                found(before[left], left)
            # its right neighbour, unless that was merged too and looks to its left itself
            if after[left] < len(word):
                found(left, after[left])
    return [symbol for symbol in word if symbol]
