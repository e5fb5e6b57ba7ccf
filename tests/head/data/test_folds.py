import numpy as np
import pytest

from head.data import folds as module
from head.data.duplicates import duplicate_groups
from head.data.folds import Protocol, assign_folds, carve, check_split, members, parts, refold


def memes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, two in five offensive as in MultiOFF, and groups of one to five copies, most of one."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.choice(5, count, p=[0.8, 0.1, 0.05, 0.03, 0.02]) + 1)[:count]
    return (rng.random(count) < 0.4).astype(np.int64), rng.permutation(groups)


def pooled(label: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(label)) % 4 == 0, "validation", "train")


def kfold(label: np.ndarray, groups: np.ndarray, seed: int = 0, **settings: int) -> np.ndarray:
    return assign_folds(label, groups, pooled(label), Protocol(**settings), seed)


@pytest.mark.parametrize(("count", "folds"), [(594, 5), (594, 10), (100, 2), (2000, 20)])
def test_folds_keep_groups_whole_and_are_balanced_by_size_and_label(count, folds):
    label, groups = memes(count)
    found = kfold(label, groups, folds=folds, repeats=2)
    assert found.shape == (2, count) and found.dtype == np.int64
    for row in found:
        assert set(row.tolist()) == set(range(folds))
        assert all(len(set(row[groups == group].tolist())) == 1 for group in np.unique(groups))
        for part in (label == 0, label == 1, label >= 0):
            sizes = [int(np.sum(part & (row == fold))) for fold in range(folds)]
            assert max(sizes) - min(sizes) <= 1


def test_a_copy_planted_among_the_memes_is_never_trained_on_when_its_original_is_held_out():
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(2, 400, 64)).astype(np.float32)
    copies = rng.permutation(400)[:120].reshape(40, 3)
    image[copies[:, 1]] = image[copies[:, 0]] + 0.03 * rng.normal(size=(40, 64))
    text[copies[:, 2]] = text[copies[:, 1]] + 0.03 * rng.normal(size=(40, 64))
    groups = duplicate_groups(image, text, [""] * 400, [""] * 400)
    label = rng.integers(0, 2, 400)
    for train, held in members(kfold(label, groups, repeats=3)):
        assert all(len(np.intersect1d(copy, held)) in (0, 3) for copy in copies)
        assert not set(train) & set(held)
    leaks = [len(np.intersect1d(copy, held)) for _, held in members(kfold(label, np.arange(400))) for copy in copies]
    assert {1, 2} & set(leaks)  # without the groups they do leak


def test_every_meme_is_held_out_once_a_repeat_and_parts_come_in_order():
    label, groups = memes(200)
    folds = kfold(label, groups, folds=4, repeats=3)
    parts = members(folds)
    assert len(parts) == 12
    for place, (train, held) in enumerate(parts):
        assert held.tolist() == [n for n in range(200) if folds[place // 4, n] == place % 4]
        assert sorted([*train, *held]) == list(range(200))


def test_the_seed_decides_and_repeats_differ():
    label, groups = memes(200)
    folds = kfold(label, groups, seed=3, repeats=2)
    assert (folds == kfold(label, groups, seed=3, repeats=2)).all()
    assert (folds[0] == kfold(label, groups, seed=3)[0]).all()  # more repeats leave the first as it was
    assert (folds[0] != folds[1]).any() and (folds != kfold(label, groups, seed=4, repeats=2)).any()


def test_the_official_protocol_holds_out_validation_alone():
    label, groups = memes(40)
    folds = assign_folds(label, groups, pooled(label), Protocol("official", repeats=2), seed=0)
    assert folds.tolist() == [[0 if n % 4 == 0 else -1 for n in range(40)]] * 2
    (train, held), again = members(folds)
    assert held.tolist() == list(range(0, 40, 4)) == again[1].tolist() and len(train) == 30


@pytest.mark.parametrize(
    ("label", "groups", "folds", "message"),
    [
        ([0] * 6 + [1] * 2, range(8), 5, "5 folds need at least 5 .* there are 2 offensive: add memes, or FOLDS=2"),
        ([1] * 20 + [0] * 3, range(23), 5, "there are 3 not offensive: add memes, or FOLDS=3"),
        ([0] * 20 + [1] * 6, [*range(20), *[20] * 3, *[21] * 3], 5, "6 offensive in 2 groups: .* FOLDS=2"),
        ([0] * 4 + [1] * 3, range(7), 5, "there are 3 offensive: add memes, or FOLDS=3"),
        ([0] * 20 + [1] * 6, [*range(20), *[20] * 6], 5, "6 offensive in 1 group: add memes$"),
        ([0] * 20, range(20), 2, "there are 0 offensive: add memes$"),
        ([], [], 5, "there are 0 not offensive: add memes$"),
    ],
)
def test_too_few_memes_of_a_label_are_said_with_the_folds_that_would_do(label, groups, folds, message):
    with pytest.raises(ValueError, match=message):
        kfold(np.array(label, np.int64), np.array(list(groups), np.int64), folds=folds)


def test_the_folds_that_the_message_names_do():
    label = np.array([0] * 20 + [1] * 3)
    assert set(kfold(label, np.arange(23), folds=3)[0][20:].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train"] * 8, "validation: all 0 memes"),
        (["validation"] * 8, "train: all 0 memes"),
        (["train", "validation"] * 4, "train: all 4 memes have one label"),
        (["train"] * 7 + ["test"], "only train and validation, got .*'test'"),
    ],
)
def test_an_official_part_without_a_label_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        assign_folds(np.arange(8) % 2, np.arange(8), np.array(split), Protocol("official"), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "loo"}, "kfold.*got 'loo'"),
        ({"folds": 1}, "2 to 20, got 1"),
        ({"folds": 21}, "2 to 20, got 21"),
        ({"repeats": 0}, "1 to 20, got 0"),
        ({"repeats": 21}, "1 to 20, got 21"),
    ],
)
def test_a_protocol_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        ((), {"train": 200, "test": 40}),
        (("validation",), {"train": 160, "validation": 40, "test": 40}),
        (("validation", "test"), {"train": 120, "validation": 40, "test": 80}),
    ],
)
def test_each_wanted_split_takes_a_fifth_of_train_with_groups_whole_and_labels_shared(wanted, sizes):
    label, groups = memes(240)
    given = np.array(["train"] * 200 + ["test"] * 40)
    groups[200:] += 1000
    split = carve(label, groups, given, wanted, seed=1)
    assert (split[200:] == "test").all()
    assert {name: int(np.sum(split == name)) for name in sizes} == pytest.approx(sizes, abs=2)
    assert all(len(set(split[groups == group].tolist())) == 1 for group in np.unique(groups))
    share = label[:200].mean()
    assert all(abs(label[:200][split[:200] == name].mean() - share) < 0.03 for name in wanted)
    assert (split == carve(label, groups, given, wanted, seed=1)).all()
    assert not wanted or (split != carve(label, groups, given, wanted, seed=2)).any()


@pytest.mark.parametrize(
    ("label", "groups", "message"),
    [
        ([0, 1] * 3, range(6), "train: 6 labelled memes"),
        ([1] * 20, range(20), "train: all 20 memes have one label"),
        ([0] * 20 + [1] * 4, range(24), "4 memes of the rarer label, and 24 groups"),
        ([0, 1] * 10, [n // 5 for n in range(20)], "10 memes of the rarer label, and 4 groups"),
    ],
)
def test_a_train_split_too_small_to_carve_is_refused(label, groups, message):
    with pytest.raises(ValueError, match=message):
        carve(np.array(label), np.array(list(groups)), np.array(["train"] * len(label)), ["validation"], seed=0)


def test_a_split_needs_eight_memes_and_both_labels():
    check_split(np.array([0] * 7 + [1]), "validation")
    with pytest.raises(ValueError, match="validation: 7 labelled"):
        check_split(np.array([0, 1] * 3 + [0]), "validation")


def test_parts_are_the_folds_of_the_first_repeat_or_fifths_of_validation():
    label, groups = memes(240)
    folds = assign_folds(label, groups, np.full(240, "train"), Protocol("kfold", 3, 2), 0)
    assert (parts(label, groups, folds, 0) == folds[0]).all()
    seven = parts(label, groups, assign_folds(label, groups, np.full(240, "train"), Protocol("kfold", 7), 0), 0)
    assert sorted(set(seven.tolist())) == list(range(5))

    split = np.where(groups % 3 == 0, "validation", "train")
    found = parts(label, groups, assign_folds(label, groups, split, Protocol("official"), 0), 0)
    assert ((found >= 0) == (split == "validation")).all() and set(found[found >= 0].tolist()) == set(range(5))
    for part in range(5):
        assert not set(groups[found == part]) & set(groups[(found != part) & (found >= 0)])


def test_of_many_memes_only_so_many_parts_are_kept_as_are_enough(monkeypatch):
    monkeypatch.setattr(module, "_ENOUGH", 90)
    label = np.arange(240) % 2
    found = parts(label, np.arange(240), (np.arange(240) % 5)[None], 0)
    assert set(found.tolist()) == {-1, 0, 1} and (found >= 0).sum() == 96


def test_validation_needs_two_memes_of_each_label_to_be_parted():
    label, folds = np.array([0, 1] * 5 + [0, 0, 0, 1]), np.array([[-1] * 10 + [0] * 4])
    with pytest.raises(ValueError, match="validation: at least 2 memes of each label"):
        parts(label, np.arange(14), folds, 0)


def test_memes_that_a_part_leaves_are_dealt_into_as_many_folds_as_their_labels_allow():
    label, train = np.array([0] * 30 + [1] * 4), np.full(34, "train")
    found = refold(label, np.arange(34), train, Protocol("kfold", 5, 2), 0)
    assert found.shape == (2, 34) and found.max() == 3
    assert all(set(label[found[0] == fold]) == {0, 1} for fold in range(4))
    with pytest.raises(ValueError, match="2 folds need at least 2 memes of each label"):
        refold(label[:31], np.arange(31), train[:31], Protocol(), 0)
