import numpy as np
import pytest
from fakes import planted_features

from head.data.similar import Similar


def cosine(known: np.ndarray, row: int, own: np.ndarray) -> float:
    """The slow way, in double precision."""
    centre = sum(vector.astype(np.float64) for vector in known) / len(known)
    one, other = known[row] - centre, own - centre
    return float(one @ other / (np.sqrt(one @ one) * np.sqrt(other @ other)))


def test_the_nearest_are_those_of_a_plain_loop_over_centred_cosines():
    known, asked = planted_features(300), planted_features(5, seed=1)
    similar = Similar(known.image + 5, known.text)  # an encoder's vectors point one way
    for row in range(5):
        image, text = asked.image[row] + 5, asked.text[row]
        near = similar.nearest(image, text, 4)
        sides = [(cosine(known.image + 5, r, image), cosine(known.text, r, text)) for r in range(300)]
        best = sorted(range(300), key=lambda r: -sum(sides[r]))[:4]
        assert near.rows.tolist() == best
        assert near.image == pytest.approx([sides[r][0] for r in best], abs=1e-5)
        assert near.text == pytest.approx([sides[r][1] for r in best], abs=1e-5)
        assert near.similarity == pytest.approx([sum(sides[r]) / 2 for r in best], abs=1e-5)


def test_a_known_meme_is_most_like_itself_unless_it_is_left_out():
    known = planted_features(50)
    similar = Similar(known.image, known.text)
    near = similar.nearest(known.image[7], known.text[7], 1)
    assert near.rows.tolist() == [7] and near.similarity == pytest.approx([1], abs=1e-6)
    assert 7 not in similar.nearest(known.image[7], known.text[7], 50, np.array([7])).rows


def test_of_equally_similar_memes_the_first_come_first_and_there_are_no_more_than_there_are():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    similar = Similar(vectors, vectors)
    assert similar.nearest(vectors[2], vectors[2], 2).rows.tolist() == [0, 2]
    assert similar.nearest(vectors[2], vectors[2], 9).rows.tolist() == [0, 2, 3, 1]
    assert similar.nearest(vectors[2], vectors[2], 9, np.arange(4)).rows.tolist() == []


def test_vectors_that_are_all_the_same_are_like_nothing():
    same = np.ones((3, 4), np.float32)
    near = Similar(same, same).nearest(same[0], same[0], 3)
    assert near.rows.tolist() == [0, 1, 2] and near.similarity.tolist() == [0, 0, 0]


def test_the_vectors_that_it_was_given_stay_as_they_are():
    known = planted_features(10)
    before = known.image.copy()
    Similar(known.image, known.text).nearest(known.image[0], known.text[0], 3)
    assert (known.image == before).all()
