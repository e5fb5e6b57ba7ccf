import numpy as np
import pytest

from cache import DatasetIndex, MissingVectors, Segment, UnusableIndex, VectorStore, content_key, text_key, write_index
from head.data import Features, content_groups, fingerprint, load_features, usable_rows, with_splits

SPEC = {"model": "fake", "dim": 3}


def make(split: list[str], seed: int = 0) -> Features:
    rng, n = np.random.default_rng(seed), len(split)
    return Features(
        np.array([f"m{i}" for i in range(n)]),
        rng.normal(size=(n, 3)).astype(np.float32),
        rng.normal(size=(n, 2)).astype(np.float32),
        np.arange(n) % 2,
        np.array(split),
    )


def make_index(
    texts: list[str], labels: list[int], skipped: list[str], pictures: list[str] | None = None
) -> DatasetIndex:
    n = len(texts)
    pictures = pictures or [f"picture {i}" for i in range(n)]
    return DatasetIndex(
        ids=[f"m{i}" for i in range(n)], splits=["train"] * n, labels=labels, images=["x.png"] * n, texts=texts,
        image_keys=[content_key(p.encode()) for p in pictures], text_keys=[text_key(t) for t in texts],
        skipped=skipped, text_tokens=[3] * n, text_cut=[0] * n, image_stamps=[""] * n,
        spec=SPEC, source={"data": "d", "model": "m", "pretrained": ""},
    )  # fmt: skip


def fill(root, index: DatasetIndex, rows: list[int]) -> None:
    store = VectorStore(root, SPEC)
    for kind, keys in (("image", index.image_keys), ("text", index.text_keys)):
        vectors = np.array([[row, row + 0.5, 1] for row in rows], np.float32)
        store.add(kind, Segment([keys[row] for row in rows], vectors, np.zeros(len(rows), np.int32)))


def test_rows_without_vectors_or_label_are_left_out_and_the_others_keep_their_vectors(tmp_path):
    index = make_index(["a", "b", "c", "d"], [1, 0, -1, 0], ["", "cannot be decoded", "", ""])
    write_index(tmp_path / "i.h5", index)
    fill(tmp_path / "vectors", index, [3, 2, 0])
    features, read = load_features(tmp_path / "i.h5", tmp_path / "vectors")
    assert features.ids.tolist() == ["m0", "m3"] and features.label.tolist() == [1, 0]
    assert features.image[:, 0].tolist() == features.text[:, 0].tolist() == [0.0, 3.0]
    assert len(read) == 4 and usable_rows(read).tolist() == [0, 3]


def test_nothing_usable_missing_vectors_and_a_missing_index_are_named(tmp_path):
    with pytest.raises(UnusableIndex, match="none.h5"):
        load_features(tmp_path / "none.h5", tmp_path)
    write_index(tmp_path / "i.h5", make_index(["a", "b"], [-1, 1], ["", "no picture"]))
    with pytest.raises(ValueError, match="none of its 2 rows"):
        load_features(tmp_path / "i.h5", tmp_path)
    write_index(tmp_path / "i.h5", make_index(["a"], [1], [""]))
    with pytest.raises(MissingVectors):
        load_features(tmp_path / "i.h5", tmp_path)


def test_groups_are_the_connected_components_of_shared_pictures_and_texts():
    index = make_index(["a", "b", "b", "c", "", ""], [1, 0, 1, 0, 1, 0], [""] * 6, ["p", "q", "r", "r", "s", "t"])
    groups = content_groups(index)
    assert groups[1] == groups[2] == groups[3]  # b and b share a text, r and r a picture
    assert len(set(groups.tolist())) == 4  # memes without text are not copies of each other


@pytest.mark.parametrize(
    ("given", "carved"),
    [
        (["train"] * 200, {"train": 120, "validation": 40, "test": 40}),
        (["train"] * 100 + ["test"] * 20, {"train": 80, "validation": 20, "test": 20}),
        (["train"] * 100 + ["validation"] * 20, {"train": 100, "validation": 20}),
    ],
)
def test_missing_splits_are_carved_from_train_with_both_classes(given, carved):
    features = with_splits(make(given), np.arange(len(given)), seed=1)
    found = {name: len(features.only(name)) for name in set(features.split.tolist())}
    assert found.keys() == carved.keys() and all(abs(found[name] - size) <= 2 for name, size in carved.items())
    assert all(0.4 < features.only(name).label.mean() < 0.6 for name in carved)


def test_copies_stay_on_one_side_and_the_seed_decides():
    features, groups = make(["train"] * 200), np.arange(200) // 4
    split = with_splits(features, groups, seed=3).split
    assert all(len(set(split[groups == group])) == 1 for group in range(50))
    assert (split == with_splits(features, groups, seed=3).split).all()
    assert (split != with_splits(features, groups, seed=4).split).any()


@pytest.mark.parametrize(
    ("split", "label", "message"),
    [
        (["train"] * 7, None, "train: 7 labelled memes"),
        (["validation"] * 20, None, "train: 0 labelled memes"),
        (["train"] * 20 + ["validation"] * 7, None, "validation: 7 labelled memes"),
        (["train"] * 20 + ["validation"] * 20, [1] * 20 + [0, 1] * 10, "train: all 20 memes have one label"),
        (["train"] * 20 + ["validation"] * 20, [0, 1] * 10 + [0] * 20, "validation: all 20 memes have one label"),
    ],
)
def test_data_that_cannot_train_a_head_are_refused(split, label, message):
    features = make(split)
    if label:
        features = Features(features.ids, features.image, features.text, np.array(label), features.split)
    with pytest.raises(ValueError, match=message):
        with_splits(features, np.arange(len(split)), seed=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.full((4, 3), np.nan, np.float32), "NaN"),
        ("text", np.full((4, 2), np.inf, np.float32), "infinite"),
        ("text", np.zeros((3, 2), np.float32), r"expected \(4, D\)"),
        ("image", np.zeros(4, np.float32), r"expected \(4, D\)"),
        ("label", np.array([0, 1, 2, 0]), "0 or 1"),
        ("split", np.array(["train", "dev", "test", "test"]), "split"),
    ],
)
def test_features_refuse_what_is_no_meme(name, value, message):
    good = vars(make(["train"] * 4))
    with pytest.raises(ValueError, match=message):
        Features(**{**good, name: value})


def test_the_fingerprint_changes_with_anything_that_a_study_depends_on():
    features = make(["train"] * 4)
    first = fingerprint(features, SPEC)
    assert first == fingerprint(make(["train"] * 4), SPEC)
    parts = vars(features)
    others = [
        {**parts, "label": 1 - features.label},
        {**parts, "ids": features.ids[::-1]},
        {**parts, "split": np.array(["train", "train", "train", "test"])},
        {**parts, "text": features.text + 1e-3},
    ]
    digests = {fingerprint(Features(**other), SPEC) for other in others} | {fingerprint(features, {"model": "other"})}
    assert len(digests | {first}) == 6
