"""Pictures and texts that are nearly the same: hashes that survive re-encoding, sets of words, clusters of either.

It knows nothing of files, labels or splits. Every pair is compared, in blocks, so that memory does not grow with
their number: 100,000 pictures take about ten seconds on two cores. `python -m embed audit` calls it.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from embed.base.threads import run_ahead

# Looked at by eye on MultiOFF: copies, re-encoded or resized, differ in at most 8 of the 256 bits; the first two memes
# that share only their template differ in 18, and from there on nearly all pairs are such. Among drawn memes, with large
# figures and few words, templates stand at 6 already, and at 10 to 12 most pairs are such: hence not more. Of pictures
# saved again as JPEG at quality 30 nearly all stay within it, of those cropped by 2 % nearly none.
MAX_BITS = 8
# Likewise: pairs that share 0.84 of their words and more are one text read twice by OCR; at 0.82 and below stand memes
# that fill one template ("Bernie or Hillary? Be informed ...") with another joke.
MIN_SHARED = 0.85

# Signs that are kept of each axis' frequencies, and pixels that they are taken from for each of them.
_KEPT, _PIXELS = 16, 4
# A block of comparisons takes some megabytes, whatever the number of memes. Texts are compared by a matrix product,
# which wants more rows at once.
_BLOCK_ROWS, _BLOCK_COLUMNS, _TEXT_ROWS = 64, 8192, 512
# Blocks that are given to the threads ahead: what they find waits in memory.
_AHEAD = 32
# Pairs that are taken up at a time; of a large cluster, the first of them make the others superfluous.
_PAIRS = 65_536
# Words are counted into so many buckets: a few collisions among the fifty words of a text, and no vocabulary.
_BUCKETS = 512
# Scripts that put no space between words count as one word per character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def picture_hash(picture: Image.Image) -> np.ndarray | None:
    """The 256 signs of a picture's lowest frequencies, (4,) uint64; None for a picture of one grey, which has none.

    ImageHash's phash: grey, 64 x 64 pixels, discrete cosine transform, each coefficient against their median.
    picture: decoded, of any mode and size.
    """
    # Scaled here rather than by ImageHash: a large picture takes a third of the time, and the hashes that stand in the
    # records of parts stay what they are.
    side = _KEPT * _PIXELS
    small = picture.convert("L").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    darkest, lightest = small.getextrema()
    if darkest == lightest:
        return None
    return np.packbits(imagehash.phash(small, _KEPT, _PIXELS).hash).view(np.uint64)


def differing_bits(one: np.ndarray, other: np.ndarray) -> int:
    """In how many of their 256 bits two hashes (4,) uint64 differ."""
    return int(np.bitwise_count(one ^ other).sum())


def near_pictures(hashes: np.ndarray) -> list[list[int]]:
    """Clusters of two or more of the (N, 4) uint64 hashes: each differs from another of its cluster by MAX_BITS."""
    if len(hashes) == 0:
        return []
    # One hash that a thousand pictures have is compared once.
    distinct, of = np.unique(hashes, axis=0, return_inverse=True)
    clusters = _Clusters(len(distinct))

    def compare(block: tuple[int, int]) -> np.ndarray:
        rows, columns = (slice(block[0], block[0] + _BLOCK_ROWS), slice(block[1], block[1] + _BLOCK_COLUMNS))
        # most pairs differ too much in the first of the four words already
        close = np.bitwise_count(distinct[rows, None, 0] ^ distinct[None, columns, 0]) <= MAX_BITS
        pairs = np.argwhere(close & clusters.apart(rows, columns)) + block
        return pairs[np.bitwise_count(distinct[pairs[:, 0]] ^ distinct[pairs[:, 1]]).sum(axis=1) <= MAX_BITS]

    n = len(distinct)
    blocks = [(r, c) for r in range(0, n, _BLOCK_ROWS) for c in range(r, n, _BLOCK_COLUMNS)]
    # numpy lets other threads work meanwhile
    for pairs in tqdm(run_ahead(compare, blocks, _AHEAD), "comparing pictures", len(blocks), delay=1):
        clusters.join(pairs, lambda one, other: True)
    return _members(clusters.number[of.ravel()])


def words(text: str) -> frozenset[str]:
    """The words of a text, whatever their case, order and punctuation."""
    return frozenset(_WORD.findall(text.lower()))


def shared_words(one: frozenset[str], other: frozenset[str]) -> float:
    """How much of two sets of words is common, 0 to 1 (Dice's coefficient)."""
    return 2 * len(one & other) / max(1, len(one) + len(other))


def near_texts(texts: Sequence[frozenset[str]]) -> list[list[int]]:
    """Clusters of two or more of N sets of words: each shares MIN_SHARED with another of its cluster.

    Texts without a word are in none.
    """
    distinct = sorted(dict.fromkeys(texts), key=len)
    place = {text: n for n, text in enumerate(distinct)}
    clusters = _Clusters(len(distinct))
    for pairs in _text_pairs(distinct, clusters):
        clusters.join(pairs, lambda one, other: shared_words(distinct[one], distinct[other]) >= MIN_SHARED)
    number = clusters.number[np.array([place[text] for text in texts], np.int64)]
    return [members for members in _members(number) if texts[members[0]]]


def _text_pairs(texts: list[frozenset[str]], clusters: "_Clusters") -> Iterator[np.ndarray]:
    """Pairs (P, 2) of the texts, which come sorted by size, that may share MIN_SHARED: all that do, and few others.

    Those that are in one cluster by then are left out.
    """
    size = np.array([len(text) for text in texts], np.float32)
    counts = _bucket_counts(texts)
    # 2 x shared / (a + b) >= MIN_SHARED cannot be where b is larger than this
    last = np.searchsorted(size, size * (2 - MIN_SHARED) / MIN_SHARED, side="right")
    for start in tqdm(range(0, len(texts), _TEXT_ROWS), "comparing texts", delay=1):
        rows = slice(start, min(start + _TEXT_ROWS, len(texts)))
        for left in range(start, int(last[rows.stop - 1]), _BLOCK_COLUMNS):
            columns = slice(left, min(left + _BLOCK_COLUMNS, int(last[rows.stop - 1])))
            # words that meet in a bucket by chance only add to what two texts share
            at_most = counts[rows].astype(np.float32) @ counts[columns].astype(np.float32).T
            near = 2 * at_most >= MIN_SHARED * (size[rows, None] + size[None, columns])
            yield np.argwhere(near & clusters.apart(rows, columns)) + (start, left)


def _bucket_counts(texts: list[frozenset[str]]) -> np.ndarray:
    """(N, 512) uint8: how many words of each text fall into each bucket."""
    counts = np.zeros((len(texts), _BUCKETS), np.uint8)
    bucket: dict[str, int] = {}
    for n, text in enumerate(texts):
        columns = [bucket.setdefault(word, len(bucket)) % _BUCKETS for word in text]
        row = np.bincount(columns, minlength=_BUCKETS) if columns else 0
        counts[n] = np.minimum(row, 255)
    return counts


def _members(number: np.ndarray) -> list[list[int]]:
    """The positions of each number that stands there more than once, in the order of the first of them."""
    found: dict[int, list[int]] = {}
    for position, cluster in enumerate(number.tolist()):
        found.setdefault(cluster, []).append(position)
    return [members for members in found.values() if len(members) > 1]


class _Clusters:
    """Numbers (N,) of clusters that are joined pair by pair; a joint costs N, which only real twins pay."""

    def __init__(self, count: int) -> None:
        self.number = np.arange(count, dtype=np.int32)

    def apart(self, rows: slice, columns: slice) -> np.ndarray:
        """(R, C) bool: which pairs of a block are not in one cluster yet; a thing and itself always are."""
        return self.number[rows, None] != self.number[None, columns]

    def join(self, pairs: np.ndarray, alike: Callable[[int, int], bool]) -> None:
        """Put each of the pairs (P, 2) that is alike, and all that belong to either, into one cluster."""
        for start in range(0, len(pairs), _PAIRS):
            part = pairs[start : start + _PAIRS]
            for one, other in part[self.number[part[:, 0]] != self.number[part[:, 1]]].tolist():
                low, high = sorted((self.number[one], self.number[other]))
                if low != high and alike(one, other):
                    self.number[self.number == high] = low
