"""Cluster near-duplicate pictures by perceptual hash, and near-duplicate texts by shared words.

The clusters are exact, and made without a list of pairs (`embed.data.clusters`); `make bench-near` has the time and
memory for a million.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from embed.data.clusters import Entries, join_near

# Checked by eye on MultiOFF: re-encoded or resized copies differ in at most 8 of 256 bits; from 18 bits on nearly all
# pairs share only their template. Among drawn memes, with large figures and few words, such pairs begin at 6 bits and
# are the majority at 10 to 12. Nearly all pictures saved again as JPEG of quality 30 stay within 8 bits, nearly none
# cropped by 2 % do.
MAX_BITS = 8
# Likewise: pairs that share at least 0.84 of their words are one text read twice by OCR; pairs at 0.82 and below are
# different jokes on one template ("Bernie or Hillary? Be informed ...").
MIN_SHARED = 0.85

# DCT coefficients kept per axis, and pixels per coefficient.
_KEPT, _PIXELS = 16, 4
# Odd factors of the bands' hash, any.
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
# A key that is no word.
_DONE = np.uint64(2**32 - 1)
# Above the rounding errors of a share of a set's size, below the distance of two shares.
_ROUNDING = 1e-3
# In scripts without spaces each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def picture_hash(picture: Image.Image) -> np.ndarray | None:
    """A picture's perceptual hash of 256 bits, (4,) uint64; None for a picture of a single grey.

    ImageHash's phash: grey, 64 x 64 pixels, DCT, the 16 x 16 lowest frequencies compared with their median.
    picture: decoded, of any mode and size.
    """
    # scaled here, not by ImageHash: a third of the time for a large picture, and hashes in existing records stay valid
    side = _KEPT * _PIXELS
    small = picture.convert("L").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    darkest, lightest = small.getextrema()
    if darkest == lightest:
        return None
    return np.packbits(imagehash.phash(small, _KEPT, _PIXELS).hash).view(np.uint64)


def differing_bits(one: np.ndarray, other: np.ndarray) -> int:
    """The Hamming distance of two hashes (4,) uint64, 0 to 256."""
    return int(np.bitwise_count(one ^ other).sum())


def near_pictures(hashes: np.ndarray) -> list[list[int]]:
    """Clusters (positions, two or more) of (N, 4) uint64 hashes, each within MAX_BITS of another one of its cluster."""
    # a hash shared by a thousand pictures is compared once
    distinct, of = np.unique(hashes, axis=0, return_inverse=True)
    return _members(join_near(_Hashes(distinct), np.arange(256))[of.ravel()])


class _Hashes:
    """Hashes are split by bands of bits: two that differ in MAX_BITS agree in one of MAX_BITS + 1 bands."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.codes, self.allowances = hashes, np.full(len(hashes), MAX_BITS / 2, np.float32)

    def split(
        self, entries: Entries, state: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """state: the numbers of the bits in which the entries of a run may differ."""
        every, codes = np.arange(len(entries.items)), self.codes[entries.items]
        for number in range(MAX_BITS + 1):
            band = state[number :: MAX_BITS + 1]
            mask = np.packbits(np.isin(np.arange(256), band)).view(np.uint64)
            # 32 bits of a multilinear hash; two bands in a few billions share it and are compared for nothing
            keys = ((codes & mask) * _FACTORS).sum(axis=1, dtype=np.uint64) >> np.uint64(32)
            yield every, keys, entries.marks, np.setdiff1d(state, band)

    def near(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """All: the codes are the hashes."""
        return np.ones(len(one), bool)


def words(text: str) -> frozenset[str]:
    """The set of lower-case words of a text, without punctuation."""
    return frozenset(_WORD.findall(text.lower()))


def shared_words(one: frozenset[str], other: frozenset[str]) -> float:
    """Dice's coefficient of two sets of words, 0 to 1."""
    return _dice(one, other)


def _dice(one: AbstractSet[Any], other: AbstractSet[Any]) -> float:
    return 2 * len(one & other) / max(1, len(one) + len(other))


def near_texts(texts: Iterable[frozenset[str]]) -> list[list[int]]:
    """Clusters of N sets of words, as lists of two or more positions.

    Each set shares MIN_SHARED with another one of its cluster. Empty sets are in no cluster.
    """
    numbers: dict[str, int] = {}
    distinct: dict[bytes, int] = {}
    of = []
    for text in texts:
        row = array("i", sorted(numbers.setdefault(word, len(numbers)) for word in text))
        of.append(distinct.setdefault(row.tobytes(), len(distinct)))
    number = join_near(_WordSets(list(distinct)), 0)[np.array(of, np.int64)]
    empty = distinct.get(b"")
    return [members for members in _members(number) if of[members[0]] != empty]


class _WordSets:
    """Sets of words, split by their rarest words.

    A set of n words shares at least m of them with a near one, the size of the smallest that can be near; the rarest
    shared word is among its n - m + 1 rarest, the next one among its n - m + 2 rarest, and so on.
    """

    def __init__(self, rows: list[bytes]) -> None:
        """rows: the numbers of each set's words, int32."""
        size = np.array([len(row) // 4 for row in rows], np.int64)
        self._begin = np.concatenate([[0], np.cumsum(size)])
        row, words = np.repeat(np.arange(len(rows)), size), np.frombuffer(b"".join(rows), np.int32)
        rank = np.argsort(np.argsort(np.bincount(words), kind="stable")) if len(words) else words
        row <<= 32
        row |= rank[words]
        row.sort()
        self._words = (row & 0xFFFFFFFF).astype(np.int32)
        row >>= 32
        self._shared = np.ceil(size * (MIN_SHARED / (2 - MIN_SHARED)) - _ROUNDING).astype(np.int64)
        # a bit of the code differs for each word that is in one of two sets, or for two of them not at all
        self.codes = np.zeros((len(rows), 4), np.uint64)
        for column in range(4):
            here = self._words // 64 % 4 == column
            bits = np.uint64(1) << (self._words[here] % 64).astype(np.uint64)
            np.bitwise_xor.at(self.codes[:, column], row[here], bits)
        self.allowances = (size * (1 - MIN_SHARED) + _ROUNDING).astype(np.float32)

    def split(self, entries: Entries, state: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
        """marks: how many of the rarest words are used; state: how many words the entries of a run share."""
        begin, end = self._begin[entries.items], self._begin[entries.items + 1]
        shared = self._shared[entries.items]
        first, last = begin + entries.marks, np.minimum(end - shared + state + 1, end)
        count = np.maximum(last - first, 0)
        of = np.repeat(np.arange(len(count), dtype=np.int32), count)
        place = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count) + first[of]
        yield of, self._words[place].astype(np.uint64), (place - begin[of] + 1).astype(np.int32), state + 1
        # two that need to share no more words than they do
        done = np.flatnonzero(shared <= state)
        yield done, np.full(len(done), _DONE), entries.marks[done], state

    def near(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Those that share MIN_SHARED."""
        pairs = zip(one.tolist(), other.tolist())
        return np.array([_dice(self._set(a), self._set(b)) >= MIN_SHARED for a, b in pairs], bool)

    def _set(self, item: int) -> frozenset[int]:
        return frozenset(self._words[self._begin[item] : self._begin[item + 1]].tolist())


def _members(number: np.ndarray) -> list[list[int]]:
    """The positions of each number that occurs more than once, ordered by first occurrence."""
    found: dict[int, list[int]] = {}
    for position, cluster in enumerate(number.tolist()):
        found.setdefault(cluster, []).append(position)
    return [members for members in found.values() if len(members) > 1]
