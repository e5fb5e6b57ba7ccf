import numpy as np
import pytest

from cache import text_key
from head.data import duplicates
from head.data.duplicates import duplicate_groups


def noise(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Vectors whose columns spread unevenly, as an encoder's do."""
    return (np.random.default_rng(seed).normal(size=(count, width)) * np.geomspace(1, 0.1, width)).astype(np.float32)


def groups_of(image: np.ndarray, text: np.ndarray | None = None, **keys: list[str]) -> np.ndarray:
    """Keys that tell nothing unless given, and texts that are all different."""
    text = noise(len(image), 24, seed=99) if text is None else text
    blank = [""] * len(image)
    return duplicate_groups(image, text, keys.get("image_keys", blank), keys.get("text_keys", blank))


def partition(groups: np.ndarray, order: np.ndarray | None = None) -> set[frozenset[int]]:
    order = np.arange(len(groups)) if order is None else order
    return {frozenset(order[groups == group].tolist()) for group in set(groups.tolist())}


def shared(groups: np.ndarray) -> set[frozenset[int]]:
    return {members for members in partition(groups) if len(members) > 1}


def plant(vectors: np.ndarray, pairs: list[tuple[int, int]], amount: float = 0.03) -> np.ndarray:
    copied = vectors.copy()
    for one, other in pairs:
        copied[other] = copied[one] + amount * noise(1, vectors.shape[1], seed=other)[0]
    return copied


PLANTED = [(3, 590), (17, 256), (17, 400), (100, 101)]
EXPECTED = {frozenset({3, 590}), frozenset({17, 256, 400}), frozenset({100, 101})}


@pytest.mark.parametrize("cone", [0, 3, 30])
@pytest.mark.parametrize("side", ["image", "text"])
def test_copies_with_noise_are_joined_and_nothing_else_however_narrow_the_cone(side, cone):
    vectors, others = plant(noise(600, 96), PLANTED) + np.float32(cone), noise(600, 48, seed=7)
    image, text = (vectors, others) if side == "image" else (others, vectors)
    assert shared(groups_of(image, text)) == EXPECTED


def test_a_copy_by_picture_of_a_copy_by_text_is_in_the_group():
    image, text = plant(noise(200, 64), [(0, 80)]), plant(noise(200, 32, seed=5), [(80, 150)])
    assert shared(groups_of(image, text)) == {frozenset({0, 80, 150})}


def test_the_groups_are_those_of_plain_numpy_over_all_pairs():
    centres = noise(150, 40, seed=1)
    vectors = centres[np.random.default_rng(2).integers(0, 150, 400)] + 0.3 * noise(400, 40, seed=3)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    white = np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(len(vectors))
    number = np.arange(400)
    pairs = []
    for one in range(400):
        for other in range(one + 1, 400):
            a, b, x, y = centred[one], centred[other], white[one], white[other]
            cosine = a @ b / np.sqrt(a @ a * (b @ b))
            pairs.append((min(cosine, 2 * x @ y / (x @ x + y @ y)), one, other))
    for alike, one, other in sorted(pairs, reverse=True):
        low, high = sorted((number[one], number[other]))
        if alike >= 0.9 and np.isin(number, (low, high)).sum() <= 40:
            number[number == high] = low
    found = groups_of(vectors)
    assert found.tolist() == number.tolist()
    assert 20 < len(shared(found)) and len(set(found.tolist())) > 150  # neither all nor nothing


def test_neither_rotation_nor_length_nor_order_of_the_vectors_matters():
    rng = np.random.default_rng(4)
    vectors = plant(noise(600, 96) + np.float32(2), PLANTED)
    turned = vectors @ np.linalg.qr(rng.normal(size=(96, 96)))[0].astype(np.float32)
    assert shared(groups_of(turned * rng.uniform(0.5, 2, (600, 1)).astype(np.float32))) == EXPECTED
    order = rng.permutation(600)
    text = noise(600, 24, seed=99)
    again = groups_of(vectors[order], text[order])
    assert partition(again, order) == partition(groups_of(vectors, text))


def test_shared_keys_join_directly_and_through_others_and_the_number_is_the_first_meme():
    found = groups_of(
        noise(60, 16),
        image_keys=["p", "q", "r", "r", *(f"p{n}" for n in range(56))],
        text_keys=["a", "b", "b", "c", *(f"t{n}" for n in range(56))],
    )
    assert found[:5].tolist() == [0, 1, 1, 1, 4] and len(set(found.tolist())) == 58


def test_no_key_and_no_text_make_no_copies():
    image, text = noise(60, 16), noise(60, 16, seed=1)
    text[:5] = text[0]
    nothing = [text_key("")] * 5 + [f"t{n}" for n in range(55)]
    assert shared(groups_of(image, text, image_keys=[""] * 60, text_keys=nothing)) == set()
    assert shared(groups_of(image, text)) == {frozenset(range(5))}  # without keys, equal vectors are copies
    text[:5] = 0
    assert shared(groups_of(image, text)) == set()


@pytest.mark.parametrize("by", ["key", "equal vector", "near vector"])
@pytest.mark.parametrize(("sharers", "joined"), [(10, True), (11, False)])
def test_what_more_than_a_tenth_of_the_memes_share_joins_nothing(by, sharers, joined):
    image, keys = noise(100, 32), [f"p{n}" for n in range(100)]
    if by == "key":
        keys[:sharers] = ["same"] * sharers
    else:
        image[:sharers] = image[0]
    if by == "near vector":
        image[:sharers] += 1e-3 * noise(sharers, 32, seed=8)
    found = groups_of(image, image_keys=keys)
    assert shared(found) == ({frozenset(range(sharers))} if joined else set())


def test_a_chain_of_templates_stops_at_a_tenth_of_the_memes_and_the_most_alike_stay_together():
    way = np.linspace(0, 6, 300) + np.random.default_rng(0).uniform(-0.003, 0.003, 300)
    turns = way[:, None] * (1, 2, 3)
    image = np.hstack([np.cos(turns), np.sin(turns)]).astype(np.float32)
    found = groups_of(image, image_keys=["x" if n in (50, 280) else "" for n in range(300)])
    sizes = np.unique(found, return_counts=True)[1]
    assert 10 < sizes.max() <= 30
    closest = np.argsort(np.diff(way))[:15]
    assert (found[closest] == found[closest + 1]).all() and found[50] == found[280]


def test_more_copies_than_neighbours_are_kept_are_still_one_group():
    image = noise(1000, 64)
    members = np.arange(5, 1000, 11)  # 91 of them
    assert duplicates._NEIGHBOURS < len(members)
    image[members] = image[5] + 0.03 * noise(len(members), 64, seed=6)
    assert shared(groups_of(image)) == {frozenset(members.tolist())}


def test_a_vector_that_too_many_are_near_to_joins_none_of_them():
    star = np.tile(np.eye(1, 20, dtype=np.float32), (15, 1))
    star[1:13] += 0.4 * np.eye(12, 20, k=1, dtype=np.float32)  # near the first vector, and not near each other
    star[13:] = 5 * np.eye(1, 20, k=19, dtype=np.float32)
    assert duplicates._candidates(star, 0.9, 12, "vectors").pairs.tolist() == [[13, 14]]
    assert len(duplicates._candidates(star, 0.9, 13, "vectors").pairs) == 13


def test_forty_memes_with_wide_vectors_are_enough_to_find_a_copy():
    assert shared(groups_of(plant(noise(40, 256), [(4, 31)]))) == {frozenset({4, 31})}


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [8, 40, 300])
def test_chance_joins_no_random_vectors_of_few_columns(count, width):
    vectors = np.random.default_rng(count + width).normal(size=(count, width)).astype(np.float32)
    # on a line, all unit vectors are one of two: each is shared by too many
    assert shared(groups_of(vectors, vectors)) == set()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 50])
@pytest.mark.parametrize("fill", [0, 1])
def test_vectors_that_are_all_equal_say_nothing(count, fill):
    vectors = np.full((count, 4), fill, np.float32)
    expected = [0, 0] if count == 2 and fill else list(range(count))  # two memes may be copies of each other
    assert duplicate_groups(vectors, vectors, [""] * count, [""] * count).tolist() == expected


def test_vectors_that_differ_by_rounding_alone_say_nothing():
    image = 1 + 1e-7 * noise(200, 64)
    assert shared(groups_of(image)) == set()


def test_eight_memes_keep_the_pair_that_shares_a_picture():
    found = groups_of(noise(8, 16), image_keys=["a", "b", "c", "d", "e", "b", "g", "h"])
    assert found.tolist() == [0, 1, 2, 3, 4, 1, 6, 7]


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 4, 4, 3\]"):
        duplicate_groups(noise(4, 2), noise(4, 2), [""] * 4, [""] * 3)
