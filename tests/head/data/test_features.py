from dataclasses import replace

import numpy as np
import pytest
from fakes import SPEC, planted_features, write_features

from cache import MissingVectors, VectorStore, content_key, read_index, text_key
from head.data.features import Features, fingerprint, load_everything, load_tuning, prompt_vectors, usable_rows

SPLITS = ("train", "train", "validation", "test")


def load(artifacts, path, official=False, seed=0, everything=False) -> Features:
    read = load_everything if everything else load_tuning
    return read(read_index(path), artifacts / "vectors", official, seed)


def test_memes_without_vectors_or_label_are_left_out_and_the_others_keep_theirs(tmp_path):
    memes = planted_features(12)
    labels = [-1 if row == 2 else value for row, value in enumerate(memes.label.tolist())]
    path = write_features(tmp_path, memes, labels=labels, skipped=["cannot be decoded"] + [""] * 11)
    features, kept = load(tmp_path, path), [1, *range(3, 12)]
    assert usable_rows(read_index(path)).tolist() == kept
    assert features.ids.tolist() == [f"m{row}" for row in kept]
    for name in ("image", "text", "label", "split"):
        assert (getattr(features, name) == getattr(memes, name)[kept]).all()


def test_vectors_of_test_are_not_read_before_test_is_looked_at(tmp_path, monkeypatch):
    memes = planted_features(24, splits=SPLITS)
    path = write_features(tmp_path, memes)
    read: list[str] = []
    usual = VectorStore.read
    monkeypatch.setattr(VectorStore, "read", lambda store, kind, keys: read.extend(keys) or usual(store, kind, keys))
    assert load(tmp_path, path).ids.tolist() == memes.ids[memes.split != "test"].tolist()
    of_test = {content_key(name.encode()) for name in memes.ids[memes.split == "test"].tolist()}
    assert len(of_test) == 6 and not of_test & set(read)
    assert len(load(tmp_path, path, everything=True)) == 24 and of_test <= set(read)


def test_damage_to_the_vectors_of_test_does_not_stop_tuning(tmp_path):
    memes = planted_features(24, splits=SPLITS)
    path = write_features(tmp_path, memes)
    for segment in VectorStore(tmp_path / "vectors", SPEC).folder.glob("*.h5"):
        if segment.stat().st_mtime_ns == max(other.stat().st_mtime_ns for other in segment.parent.glob("*.h5")):
            segment.write_bytes(b"damaged")  # the last one: texts of test
    assert len(load(tmp_path, path)) == 18
    with pytest.raises(MissingVectors, match="6 of 24 text vectors are not there"):
        load(tmp_path, path, everything=True)


def test_nothing_to_tune_on_and_missing_vectors_are_said(tmp_path):
    path = write_features(tmp_path, planted_features(4), labels=[-1] * 4)
    with pytest.raises(ValueError, match="none of the data set's 4 rows has a label, vectors and a split"):
        load(tmp_path, path)
    path = write_features(tmp_path, planted_features(4), text_keys=[text_key("never embedded")] * 4)
    (tmp_path / "vectors").rename(tmp_path / "gone")
    with pytest.raises(MissingVectors, match="run the embedding job again"):
        load(tmp_path, path)


@pytest.mark.parametrize(("side", "value"), [("image", np.nan), ("text", np.inf)])
def test_numbers_that_are_none_name_the_meme_and_the_fix(tmp_path, monkeypatch, side, value):
    path = write_features(tmp_path, planted_features(12))
    usual = VectorStore.read

    def damaged(store: VectorStore, kind: str, keys: list[str]) -> np.ndarray:
        vectors = usual(store, kind, keys)  # the store takes no such numbers; other software may write them
        vectors[5, 2] = value if kind == side else 0
        return vectors

    monkeypatch.setattr(VectorStore, "read", damaged)
    with pytest.raises(ValueError, match=rf"{side}: the vectors of 1 of 12 memes .*'m5'.*make embed"):
        load(tmp_path, path)


def test_memes_that_are_all_alike_are_refused(tmp_path):
    memes = planted_features(12)
    same = replace(memes, image=np.ones_like(memes.image), text=np.ones_like(memes.text))
    with pytest.raises(ValueError, match="all 12 memes have the same vectors.*make audit"):
        load(tmp_path, write_features(tmp_path, same))
    one_side = replace(memes, image=np.ones_like(memes.image))  # an empty picture does not stop texts
    assert len(load(tmp_path / "b", write_features(tmp_path / "b", one_side))) == 12


@pytest.mark.parametrize(
    ("given", "official", "expected"),
    [
        (("train",), False, {"train": 160}),  # and a fifth is test
        (("train",), True, {"train": 120, "validation": 40}),
        (("train", "train", "train", "test"), False, {"train": 150}),
        (("train", "train", "train", "test"), True, {"train": 120, "validation": 30}),
        (("train", "train", "train", "validation"), True, {"train": 150, "validation": 50}),
        (("train", "train", "validation", "test"), False, {"train": 100, "validation": 50}),
    ],
)
def test_splits_that_are_missing_are_carved(tmp_path, given, official, expected):
    path = write_features(tmp_path, planted_features(200, splits=given))
    features = load(tmp_path, path, official)
    found = {split: int((features.split == split).sum()) for split in set(features.split.tolist())}
    assert found.keys() == expected.keys() and all(abs(found[split] - expected[split]) <= 2 for split in found)
    carved = found.keys() - set(given)  # stratified
    assert all(abs(features.only(split).label.mean() - features.label.mean()) < 0.03 for split in carved)


def test_the_same_seed_carves_the_same_test_whoever_looks(tmp_path):
    path = write_features(tmp_path, planted_features(200, splits=("train",)))
    tuning, everything = load(tmp_path, path, seed=3), load(tmp_path, path, seed=3, everything=True)
    assert set(everything.ids) - set(tuning.ids) == set(everything.only("test").ids.tolist())
    assert set(tuning.ids) != set(load(tmp_path, path, seed=4).ids)


def test_copies_are_carved_to_one_side(tmp_path):
    memes = planted_features(200, splits=("train",))
    pair = np.arange(200) // 2 * 2
    path = write_features(tmp_path, replace(memes, image=memes.image[pair], text=memes.text[pair]))
    tuned_on = {int(name[1:]) // 2 for name in load(tmp_path, path).ids.tolist()}
    assert len(tuned_on) == 80 and len(load(tmp_path, path)) == 160


def test_with_parts_the_splits_follow_from_them_whatever_the_seed_and_the_vectors(tmp_path):
    memes = planted_features(100, splits=("train",))
    parts = [row % 5 for row in range(100)]
    found = {}
    for name, of in (("one", memes), ("other", replace(memes, image=memes.image[:, ::-1].copy()))):
        path = write_features(tmp_path / name, of, parts=parts)
        for seed in (0, 1):
            for official in (False, True):
                everything = load(tmp_path / name, path, official, seed, everything=True)
                found.setdefault(official, []).append(everything.split.tolist())
                assert set(load(tmp_path / name, path, official, seed).ids) == set(
                    everything.only("train", "validation").ids
                )
    assert all(splits == ["test", *["train"] * 4] * 20 for splits in found[False])
    assert all(splits == ["test", "validation", *["train"] * 3] * 20 for splits in found[True])


def test_parts_are_taken_from_train_only_for_what_the_data_do_not_name(tmp_path):
    memes, parts = planted_features(100, splits=("train", "test")), [row // 2 % 5 for row in range(100)]
    path = write_features(tmp_path, memes, parts=parts)
    assert len(load(tmp_path, path)) == 50
    official = load(tmp_path, path, official=True)
    assert set(official.only("validation").ids) == {f"m{row}" for row in range(0, 100, 2) if row // 2 % 5 == 1}
    named = planted_features(100, splits=("train", "validation"))
    both = write_features(tmp_path / "b", named, parts=parts)
    assert len(load(tmp_path / "b", both, official=True)) == 100


def test_a_part_of_one_label_is_refused_with_what_to_do(tmp_path):
    memes = planted_features(40, splits=("train",))
    parts = np.where(memes.label == 1, 0, 1 + np.arange(40) % 4).tolist()
    with pytest.raises(ValueError, match="test, held out by the memes' content: all .* have one label"):
        load(tmp_path, write_features(tmp_path, memes, parts=parts))


def test_memes_without_text_are_no_copies_of_each_other(tmp_path):
    memes = planted_features(40)
    keys = [text_key("")] * 2 + [text_key(f"text m{row}") for row in range(2, 40)]
    path = write_features(tmp_path, replace(memes, text=memes.text[[0, 0, *range(2, 40)]]), text_keys=keys)
    assert len(set(load(tmp_path, path).copies.tolist())) == 40


@pytest.mark.parametrize(
    ("count", "label", "message"),
    [
        (7, None, "split train: 7 labelled memes with vectors, at least 8 are needed"),
        (8, [0, 1] * 4, "4 memes of the rarer label.* Add memes, or name the splits in the data"),
        (40, [1] * 40, "split train: all 40 memes have one label; both labels are needed"),
    ],
)
def test_too_few_memes_to_carve_from_are_refused(tmp_path, count, label, message):
    memes = planted_features(count, splits=("train",))
    memes = replace(memes, label=np.array(label)) if label else memes
    with pytest.raises(ValueError, match=message):
        load(tmp_path, write_features(tmp_path, memes))


def test_prompts_are_read_by_label_and_may_be_absent(tmp_path):
    memes = planted_features(12)
    texts = {"offensive": ["text m0", "text m3"], "non-offensive": ["text m1"]}
    index = read_index(write_features(tmp_path, memes, prompts=texts))
    prompts = prompt_vectors(index, tmp_path / "vectors")
    assert (prompts["offensive"] == memes.text[[0, 3]]).all() and (prompts["non-offensive"] == memes.text[[1]]).all()
    assert prompt_vectors(read_index(write_features(tmp_path / "b", memes)), tmp_path / "b" / "vectors") == {}


def test_the_groups_that_the_data_name_come_along(tmp_path):
    memes = replace(planted_features(12), subgroup=np.array(["women", ""] * 6))
    assert load(tmp_path, write_features(tmp_path, memes)).subgroup.tolist() == ["women", ""] * 6


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.full((4, 3), np.nan, np.float32), "NaN"),
        ("text", np.full((4, 2), np.inf, np.float32), "infinite"),
        ("text", np.zeros((3, 2), np.float32), r"expected \(4, D\)"),
        ("image", np.zeros(4, np.float32), r"expected \(4, D\)"),
        ("image", np.zeros((4, 0), np.float32), r"expected \(4, D\)"),
        ("label", np.array([0, 1, 2, 0]), "0 or 1"),
        ("split", np.array(["train", "dev", "test", "test"]), "split"),
        ("copies", np.arange(3), "copies: expected 4"),
        ("subgroup", np.array([""]), "subgroup: expected 4"),
    ],
)
def test_features_refuse_what_is_no_meme(name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(planted_features(4), **{name: value})


def test_rows_and_splits_are_taken_in_their_order():
    memes = planted_features(6)
    assert memes.only("validation").ids.tolist() == ["m2", "m5"]
    assert memes.at(np.array([4, 0])).label.tolist() == memes.label[[4, 0]].tolist()


CHANGES = {
    "ids": lambda memes: memes.ids[::-1],
    "label": lambda memes: 1 - memes.label,
    "split": lambda memes: np.where(memes.split == "train", "validation", "train"),
    "image": lambda memes: memes.image + np.float32(1e-3),
    "text": lambda memes: memes.text + np.float32(1e-3),
    "copies": lambda memes: np.zeros(12, int),
}


@pytest.mark.parametrize("part", CHANGES)
def test_the_fingerprint_changes_with_all_that_a_study_depends_on(part):
    memes = planted_features(12)
    assert fingerprint(replace(memes, **{part: CHANGES[part](memes)}), SPEC) != fingerprint(memes, SPEC)


def test_the_fingerprint_knows_the_encoder_and_nothing_that_does_not_matter():
    memes = planted_features(12)
    first = fingerprint(memes, SPEC)
    assert first == fingerprint(planted_features(12), SPEC) and len(first) == 64
    assert first != fingerprint(memes, {**SPEC, "model": "other"})
    assert first == fingerprint(replace(memes, copies=memes.copies + 5), SPEC)  # other numbers, the same groups
    assert first == fingerprint(replace(memes, subgroup=np.full(12, "women")), SPEC)
