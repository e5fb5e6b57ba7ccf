"""Cluster near-duplicate pictures by perceptual hash, and near-duplicate texts by shared words.

All pairs are compared, in blocks of bounded memory: 100,000 pictures take about ten seconds on two cores.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from embed.base.threads import run_ahead

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
# Shapes of a block of comparisons, a few megabytes. Texts use a matrix product, which is faster on more rows.
_BLOCK_ROWS, _BLOCK_COLUMNS, _TEXT_ROWS = 64, 8192, 512
# Blocks submitted to the threads ahead; their results wait in memory.
_AHEAD = 32
# Pairs joined at a time; in a large cluster the first ones make the rest redundant.
_PAIRS = 65_536
# Buckets for word counts instead of a vocabulary: a few collisions among the fifty words of a text.
_BUCKETS = 512
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
    if len(hashes) == 0:
        return []
    # a hash shared by a thousand pictures is compared once
    distinct, of = np.unique(hashes, axis=0, return_inverse=True)
    clusters = _Clusters(len(distinct))

    def compare(block: tuple[int, int]) -> np.ndarray:
        rows, columns = (slice(block[0], block[0] + _BLOCK_ROWS), slice(block[1], block[1] + _BLOCK_COLUMNS))
        # most pairs already differ too much in the first of the four words
        close = np.bitwise_count(distinct[rows, None, 0] ^ distinct[None, columns, 0]) <= MAX_BITS
        pairs = np.argwhere(close & clusters.apart(rows, columns)) + block
        return pairs[np.bitwise_count(distinct[pairs[:, 0]] ^ distinct[pairs[:, 1]]).sum(axis=1) <= MAX_BITS]

    n = len(distinct)
    blocks = [(r, c) for r in range(0, n, _BLOCK_ROWS) for c in range(r, n, _BLOCK_COLUMNS)]
    # numpy releases the GIL
    for pairs in tqdm(run_ahead(compare, blocks, _AHEAD), "comparing pictures", len(blocks), delay=1):
        clusters.join(pairs, lambda one, other: True)
    return _members(clusters.number[of.ravel()])


def words(text: str) -> frozenset[str]:
    """The set of lower-case words of a text, without punctuation."""
    return frozenset(_WORD.findall(text.lower()))


def shared_words(one: frozenset[str], other: frozenset[str]) -> float:
    """Dice's coefficient of two sets of words, 0 to 1."""
    return 2 * len(one & other) / max(1, len(one) + len(other))


def near_texts(texts: Sequence[frozenset[str]]) -> list[list[int]]:
    """Clusters of N sets of words, as lists of two or more positions.

    Each set shares MIN_SHARED with another one of its cluster. Empty sets are in no cluster.
    """
    distinct = sorted(dict.fromkeys(texts), key=len)
    place = {text: n for n, text in enumerate(distinct)}
    clusters = _Clusters(len(distinct))
    for pairs in _text_pairs(distinct, clusters):
        clusters.join(pairs, lambda one, other: shared_words(distinct[one], distinct[other]) >= MIN_SHARED)
    number = clusters.number[np.array([place[text] for text in texts], np.int64)]
    return [members for members in _members(number) if texts[members[0]]]


def _text_pairs(texts: list[frozenset[str]], clusters: "_Clusters") -> Iterator[np.ndarray]:
    """Candidate pairs (P, 2): all that share MIN_SHARED and few others, without pairs already in one cluster.

    texts: sorted by size.
    """
    size = np.array([len(text) for text in texts], np.float32)
    counts = _bucket_counts(texts)
    # 2 x shared / (a + b) >= MIN_SHARED is impossible for b larger than this
    last = np.searchsorted(size, size * (2 - MIN_SHARED) / MIN_SHARED, side="right")
    for start in tqdm(range(0, len(texts), _TEXT_ROWS), "comparing texts", delay=1):
        rows = slice(start, min(start + _TEXT_ROWS, len(texts)))
        for left in range(start, int(last[rows.stop - 1]), _BLOCK_COLUMNS):
            columns = slice(left, min(left + _BLOCK_COLUMNS, int(last[rows.stop - 1])))
            # collisions in a bucket can only raise the count of shared words
            at_most = counts[rows].astype(np.float32) @ counts[columns].astype(np.float32).T
            near = 2 * at_most >= MIN_SHARED * (size[rows, None] + size[None, columns])
            yield np.argwhere(near & clusters.apart(rows, columns)) + (start, left)


def _bucket_counts(texts: list[frozenset[str]]) -> np.ndarray:
    """(N, 512) uint8: number of each text's words per bucket, at most 255."""
    counts = np.zeros((len(texts), _BUCKETS), np.uint8)
    bucket: dict[str, int] = {}
    for n, text in enumerate(texts):
        columns = [bucket.setdefault(word, len(bucket)) % _BUCKETS for word in text]
        row = np.bincount(columns, minlength=_BUCKETS) if columns else 0
        counts[n] = np.minimum(row, 255)
    return counts


def _members(number: np.ndarray) -> list[list[int]]:
    """The positions of each number that occurs more than once, ordered by first occurrence."""
    found: dict[int, list[int]] = {}
    for position, cluster in enumerate(number.tolist()):
        found.setdefault(cluster, []).append(position)
    return [members for members in found.values() if len(members) > 1]


class _Clusters:
    """Cluster numbers (N,) int32, joined pair by pair; a join takes O(N) time."""

    def __init__(self, count: int) -> None:
        self.number = np.arange(count, dtype=np.int32)

    def apart(self, rows: slice, columns: slice) -> np.ndarray:
        """(R, C) bool: whether the items of each pair of a block are in different clusters."""
        return self.number[rows, None] != self.number[None, columns]

    def join(self, pairs: np.ndarray, alike: Callable[[int, int], bool]) -> None:
        """Merge the clusters of each pair of (P, 2) for which `alike` is true."""
        for start in range(0, len(pairs), _PAIRS):
            part = pairs[start : start + _PAIRS]
            for one, other in part[self.number[part[:, 0]] != self.number[part[:, 1]]].tolist():
                low, high = sorted((self.number[one], self.number[other]))
                if low != high and alike(one, other):
                    self.number[self.number == high] = low
