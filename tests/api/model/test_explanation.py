import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from api_fakes import FakeClassifier, make_predictor
from fakes import SPEC, picture, planted_features, write_features
from machine import PATIENCE
from msgspec import UNSET

from api.model import explanation
from api.model.explanation import NEIGHBOURS, Explainer
from api.model.prediction import Meme
from api.schema import Explanation
from cache import DatasetIndex, read_index, write_index
from head.bundle.format import LABELS
from head.data.features import Features, fingerprint, load_everything, load_tuning

SPLITS = ("train", "train", "validation", "test")
COLUMN, CARVED = SPLITS, ("train",)


class Judge:
    """Multiplies the sides' first numbers; `only`: looks at one side alone."""

    def __init__(self, config: dict[str, Any], only: str = "") -> None:
        self.config, self.only = config, only

    def judge(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        assert len(image) == len(text)
        one = torch.ones(()) if self.only == "text" else image[:, 0]
        other = torch.ones(()) if self.only == "image" else text[:, 0]
        return torch.sigmoid((one * other).double())


def chance(image: np.ndarray, text: np.ndarray) -> float:
    return float(1 / (1 + np.exp(-float(image[0]) * float(text[0]))))


def call(function: Callable[[], Any]) -> "Future[Any]":
    done: Future[Any] = Future()
    try:
        done.set_result(function())
    except Exception as error:  # noqa: BLE001 - as a lane does
        done.set_exception(error)
    return done


def config_of(artifacts: Path, path: Path, protocol: str = "kfold") -> dict[str, Any]:
    """What tuning writes of its data."""
    index = read_index(path)
    memes = load_tuning(index, artifacts / "vectors", protocol == "official", 3)
    counts = {
        split: {name: int(np.sum(memes.only(split).label == value)) for value, name in enumerate(LABELS)}
        for split in np.unique(memes.split).tolist()
    }
    data = {"index": path.name, "fingerprint": fingerprint(memes, index.spec), "counts": counts}
    return {"spec": index.spec, "seed": 3, "protocol": {"name": protocol}, "data": data}


def made(artifacts: Path, count: int = 100, splits: tuple[str, ...] = COLUMN, **judge: Any) -> tuple[Judge, Features]:
    """A judge that was tuned on memes whose index stands under `artifacts`, and all of them."""
    path = write_features(artifacts, planted_features(count, splits=splits))
    config = config_of(artifacts, path)
    return Judge(config, **judge), load_everything(read_index(path), artifacts / "vectors", False, config["seed"])


def explain(explainer: Explainer, memes: Features, row: int) -> Explanation:
    image, text = memes.image[row], memes.text[row]
    return explainer.explain(torch.from_numpy(image), torch.from_numpy(text), chance(image, text), call)


@pytest.mark.parametrize("splits", [COLUMN, CARVED])
def test_a_side_alone_is_the_mean_over_the_other_sides_of_all_memes_tuned_on(tmp_path, splits):
    judge, memes = made(tmp_path, splits=splits)
    tuned = memes.only("train", "validation")
    assert 0 < len(tuned) < 100
    said = explain(Explainer(judge, tmp_path), memes, 5)
    image, text = memes.image[5], memes.text[5]
    assert said.image_alone == pytest.approx(np.mean([chance(image, other) for other in tuned.text]), abs=1e-6)
    assert said.text_alone == pytest.approx(np.mean([chance(other, text) for other in tuned.image]), abs=1e-6)
    assert said.both == round(chance(image, text), 6) and said.note is UNSET


def test_of_many_memes_a_sample_is_taken_which_is_the_same_each_time(tmp_path):
    judge, memes = made(tmp_path, 1200)
    said = explain(Explainer(judge, tmp_path), memes, 5)
    assert explain(Explainer(judge, tmp_path), memes, 5) == said
    chances = [chance(memes.image[5], other) for other in memes.only("train", "validation").text]
    error = np.std(chances) / np.sqrt(explanation._SAMPLE)
    assert 0 < abs(said.image_alone - np.mean(chances)) < 4 * error


@pytest.mark.parametrize(("only", "ignored"), [("image", "text_alone"), ("text", "image_alone")])
def test_a_head_that_looks_at_one_side_has_one_mean_for_all_memes_on_the_other(tmp_path, only, ignored):
    judge, memes = made(tmp_path, only=only)
    explainer = Explainer(judge, tmp_path)
    assert len({getattr(explain(explainer, memes, row), ignored) for row in range(8)}) == 1
    assert len({getattr(explain(explainer, memes, row), f"{only}_alone") for row in range(8)}) == 8


@pytest.mark.parametrize("splits", [COLUMN, CARVED])
def test_neighbours_are_the_most_alike_of_the_memes_tuned_on_and_never_of_test(tmp_path, splits):
    judge, memes = made(tmp_path, splits=splits)
    explainer, tuned = Explainer(judge, tmp_path), memes.only("train", "validation")
    label = dict(zip(tuned.ids.tolist(), tuned.label.tolist()))

    def cosines(known: np.ndarray, own: np.ndarray) -> np.ndarray:
        known, own = known - known.mean(axis=0), own - known.mean(axis=0)
        return np.array([one @ own / np.linalg.norm(one) / np.linalg.norm(own) for one in known])

    of_test = np.flatnonzero(memes.split == "test")
    assert len(of_test) >= 15
    for row in (*of_test.tolist(), 1):
        sides = np.stack([cosines(tuned.image, memes.image[row]), cosines(tuned.text, memes.text[row])])
        best = np.argsort(-sides.mean(axis=0))[:NEIGHBOURS]
        near = explain(explainer, memes, row).neighbours
        assert [one.id for one in near] == tuned.ids[best].tolist()
        assert [one.similarity for one in near] == pytest.approx(sides.mean(axis=0)[best], abs=1e-4)
        assert [one.image_similarity for one in near] == pytest.approx(sides[0][best], abs=1e-4)
        assert [one.text_similarity for one in near] == pytest.approx(sides[1][best], abs=1e-4)
        assert [one.label for one in near] == [LABELS[label[one.id]] for one in near]


def edit_index(artifacts: Path, **columns: Any) -> None:
    (path,) = (artifacts / "datasets").iterdir()
    write_index(path, DatasetIndex(**{**vars(read_index(path)), **columns}))


def remove(name: str) -> Callable[[Path], None]:
    return lambda artifacts: shutil.rmtree(artifacts / name)


@pytest.mark.parametrize(
    ("splits", "change", "note"),
    [
        (COLUMN, remove("datasets"), "The index of the training memes is not at hand"),
        (
            COLUMN,
            lambda a: next((a / "datasets").iterdir()).write_bytes(b"x"),
            "The index of the training memes is not",
        ),
        (COLUMN, lambda a: edit_index(a, spec={**SPEC, "model": "other"}), "now those of another encoder"),
        (COLUMN, remove("vectors"), "cannot be read; the server's log says why"),
        (COLUMN, lambda a: edit_index(a, labels=[-1] * 100), "cannot be read; the server's log says why"),
        (CARVED, remove("vectors"), "cannot be read; the server's log says why"),
        (CARVED, lambda a: edit_index(a, labels=[1, 0] * 50), "its test cannot be told from them any more"),
    ],
)
def test_what_is_not_at_hand_is_said_without_a_place_of_this_machine(tmp_path, caplog, splits, change, note):
    judge, memes = made(tmp_path, splits=splits)
    change(tmp_path)
    explainer = Explainer(judge, tmp_path)
    with caplog.at_level(logging.WARNING, "api"):
        said = explain(explainer, memes, 0)
        assert explain(explainer, memes, 0) == said
    assert said.image_alone is None and said.text_alone is None and said.neighbours == []
    assert said.both == round(chance(memes.image[0], memes.text[0]), 6)
    assert note in said.note and said.note.endswith(".") and "/" not in said.note
    (line,) = caplog.messages
    assert str(tmp_path) in line


def test_a_bundle_that_says_nothing_of_its_data_is_explained_by_nothing(tmp_path):
    _, memes = made(tmp_path)
    assert "cannot be read" in explain(Explainer(Judge({}), tmp_path), memes, 0).note


def test_other_numbers_of_memes_than_at_tuning_are_said_and_the_memes_are_used_as_they_are(tmp_path):
    judge, memes = made(tmp_path)
    edit_index(tmp_path, labels=[1] * 100)
    said = explain(Explainer(judge, tmp_path), memes, 0)
    assert said.note.startswith("The training index has changed since this model was tuned")
    assert {one.label for one in said.neighbours} == {"offensive"} and said.image_alone is not None


def test_the_memes_are_read_once_and_not_before_the_first_explanation(tmp_path, monkeypatch):
    judge, memes = made(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(explanation, "read_index", lambda path: read.append(path) or read_index(path))
    explainer = Explainer(judge, tmp_path)
    assert read == []
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: explain(explainer, memes, 0), range(16)))
    assert len(read) == 1 and all(one == said[0] and one.neighbours for one in said)


def test_who_asks_while_they_are_read_is_told_so_and_does_not_wait_for_ever(tmp_path, monkeypatch):
    judge, memes = made(tmp_path)
    may_read = Event()
    monkeypatch.setattr(explanation, "read_index", lambda path: may_read.wait(PATIENCE) and read_index(path))
    monkeypatch.setattr(explanation, "_PATIENCE_SECONDS", 0.01)
    explainer = Explainer(judge, tmp_path)
    assert explain(explainer, memes, 0).note == explanation._READING
    monkeypatch.setattr(explanation, "_PATIENCE_SECONDS", PATIENCE)
    may_read.set()
    assert explain(explainer, memes, 0).neighbours


def test_a_model_that_fails_costs_the_explanation_and_not_the_answer(tmp_path, monkeypatch, caplog):
    judge, memes = made(tmp_path)
    monkeypatch.setattr(judge, "judge", lambda *_: 1 / 0)
    said = explain(Explainer(judge, tmp_path), memes, 0)
    assert said.note == explanation._FAILED and said.both == round(chance(memes.image[0], memes.text[0]), 6)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("text", ["four", None])
def test_a_predictor_explains_with_or_without_a_text(tmp_path, text):
    classifier = FakeClassifier()
    path = write_features(tmp_path, planted_features(40, splits=SPLITS, dims=(48, 2)), spec=classifier.encoder.spec)
    classifier.config |= config_of(tmp_path, path)
    with closing(make_predictor(classifier, artifacts=tmp_path)) as predictor:
        said = predictor.predict(Meme(picture(), text, explain=True), "id").explanation
    assert said.both == said.text_alone == (0.4 if text else 0)  # the fake looks at the text alone
    assert len(said.neighbours) == NEIGHBOURS and said.note is UNSET
