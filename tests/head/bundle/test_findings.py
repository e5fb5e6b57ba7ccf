from dataclasses import replace

import numpy as np
import pytest
from fakes import planted_features

from head.bundle.findings import drift, label_errors, slices
from head.bundle.learning import learning_curve
from head.candidates.table import BOTH


def test_labels_that_were_turned_are_the_suspects() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    chances = np.clip(0.2 + 0.6 * truth + 0.1 * rng.normal(size=400), 0.01, 0.99)
    turned = rng.choice(400, 12, replace=False)
    label = truth.copy()
    label[turned] = 1 - label[turned]
    found = label_errors(label, chances)
    assert len(found) >= 6 and set(found) <= set(turned)
    own = np.where(label == 1, chances, 1 - chances)[found]
    assert (np.diff(own) >= 0).all()
    assert len(label_errors(np.ones(9, int), chances[:9])) == 0
    assert len(label_errors(truth, chances)) == 0


def test_slices_are_by_length_of_text_and_by_copies_and_small_ones_are_left_out() -> None:
    memes = planted_features(120)
    memes = replace(memes, copies=np.where(np.arange(120) < 20, np.arange(120) // 2, np.arange(120)))
    texts = ["" if row < 15 else "word " * (1 + row % 30) for row in range(120)]
    chances = np.linspace(0.1, 0.9, 120)
    found = {row["slice"]: row for row in slices(memes, texts, chances, 0.5, 0)}
    assert found["no text"]["memes"] == 15 and found["with near-copies among the judged"]["memes"] == 20
    assert len(found) == 5 and sum(row["memes"] for name, row in found.items() if "copies" not in name) == 120
    assert all(0 <= row["accuracy"]["point"] <= 1 for row in found.values())
    assert [row["slice"] for row in slices(memes, None, chances, 0.5, 0)] == ["with near-copies among the judged"]
    assert slices(planted_features(9), ["one"] * 9, chances[:9], 0.5, 0) == []


def test_splits_of_one_kind_are_not_told_apart_and_others_are() -> None:
    memes = planted_features(200, seed=3, kind="none", dims=(24, 24), splits=("train", "test"))
    tuning, test = memes.only("train"), memes.only("test")
    same = drift(tuning, test, 0)["told_apart"]
    assert same["interval"][0] < 0.5 < same["interval"][1]
    moved = replace(test, image=test.image + np.float32(3) * np.eye(24, dtype=np.float32)[0])
    found = drift(tuning, moved, 0)
    assert found["told_apart"]["point"] > 0.9 and found["test"]["point"] == test.label.mean()
    assert drift(tuning, test.at(np.arange(4)), 0)["told_apart"]["point"] is None


def test_the_curve_rises_where_there_is_more_to_learn_and_small_shares_are_left_out() -> None:
    memes = planted_features(300)
    part = np.arange(300) % 5
    found = learning_curve(memes, BOTH, part, 0)
    assert [one["memes"] for one in found] == [60, 120, 240]
    assert found[-1]["auroc"] > 0.6 and all(one["error"] > 0 for one in found)
    few = memes.at(np.concatenate([np.flatnonzero(memes.label == 0)[:30], np.flatnonzero(memes.label == 1)[:6]]))
    assert len(learning_curve(few, BOTH, np.arange(36) % 3, 0)) < 3


@pytest.mark.parametrize("name", ["cosine of the sides"])
def test_a_method_that_does_not_apply_has_no_curve(name: str) -> None:
    memes = planted_features(60, dims=(6, 5))
    assert learning_curve(memes, name, np.arange(60) % 3, 0) == []
