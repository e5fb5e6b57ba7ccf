"""Which known memes are most like another one, by the vectors of both sides: evidence for whoever looks at an answer.

The report's gallery and the server's explanations ask it. It knows no labels and no files.
"""

from dataclasses import dataclass

import numpy as np

# Shorter than this is the mean itself, which points nowhere and is like nothing.
_SHORTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Near:
    """The K most alike, the most alike first: rows (K,) int64; image, text: (K,) float32, centred cosines of each side;
    similarity: (K,) float32, the mean of the two."""

    rows: np.ndarray
    similarity: np.ndarray
    image: np.ndarray
    text: np.ndarray


class Similar:
    """Known memes, made ready once; asking takes one pass over them, 27 ms for 100,000 of 1,024 + 768 numbers.

    Cosines are taken between vectors less the known memes' mean: an encoder's vectors lie in a narrow cone, where every
    two would be alike. Keeps 4 bytes a number: numpy has no quick product of halves.
    """

    def __init__(self, image: np.ndarray, text: np.ndarray) -> None:
        """image: (N, Di), text: (N, Dt) float32, N at least 1."""
        self._image, self._text = _Side(image), _Side(text)

    def nearest(self, image: np.ndarray, text: np.ndarray, count: int, but: np.ndarray | None = None) -> Near:
        """Those most like the meme of vectors (Di,) and (Dt,), at most `count`; but: (M,) int64, rows to leave out."""
        sides = self._image.cosines(image), self._text.cosines(text)
        similarity = (sides[0] + sides[1]) / 2
        if but is not None:
            similarity[but] = -np.inf
        rows = _highest(similarity, count)
        return Near(rows, similarity[rows], sides[0][rows], sides[1][rows])


class _Side:
    def __init__(self, vectors: np.ndarray) -> None:
        # float32 loses digits over 100,000 rows
        self._centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._unit = vectors - self._centre
        # row by row it needs no second array of that size
        self._unit /= np.maximum(np.sqrt(np.einsum("nd,nd->n", self._unit, self._unit)), _SHORTEST)[:, None]

    def cosines(self, vector: np.ndarray) -> np.ndarray:
        own = vector - self._centre
        return self._unit @ (own / max(float(np.linalg.norm(own)), _SHORTEST))


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """The rows of the highest finite values, the first of equals first."""
    count = min(count, len(values))
    bar = np.partition(values, len(values) - count)[len(values) - count]  # sorting all takes four times as long
    rows = np.flatnonzero((values >= bar) & np.isfinite(values))
    return rows[np.argsort(-values[rows], kind="stable")][:count]
