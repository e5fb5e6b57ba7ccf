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


class Product:
    """A classifier by the product of the sides' first numbers; only: the one side that is used."""

    def __init__(self, config: dict[str, Any], only: str = "") -> None:
        self.config, self.only = config, only

    def probabilities(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
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
    """The config that tuning writes."""
    index = read_index(path)
    memes = load_tuning(index, artifacts / "vectors", protocol == "official", 3)
    counts = {
        split: {name: int(np.sum(memes.only(split).label == value)) for value, name in enumerate(LABELS)}
        for split in np.unique(memes.split).tolist()
    }
    data = {"index": path.name, "fingerprint": fingerprint(memes, index.spec), "counts": counts}
    return {"spec": index.spec, "seed": 3, "protocol": {"name": protocol}, "data": data}


def made(
    artifacts: Path, count: int = 100, splits: tuple[str, ...] = COLUMN, **classifier: Any
) -> tuple[Product, Features]:
    """A classifier and all memes of its index under `artifacts`."""
    path = write_features(artifacts, planted_features(count, splits=splits))
    config = config_of(artifacts, path)
    return Product(config, **classifier), load_everything(
        read_index(path), artifacts / "vectors", False, config["seed"]
    )


def explain(explainer: Explainer, memes: Features, row: int) -> Explanation:
    image, text = memes.image[row], memes.text[row]
    return explainer.explain(torch.from_numpy(image), torch.from_numpy(text), chance(image, text), call)


@pytest.mark.parametrize("splits", [COLUMN, CARVED])
def test_a_side_alone_is_the_mean_over_the_other_sides_of_the_training_memes(tmp_path, splits):
    classifier, memes = made(tmp_path, splits=splits)
    tuned = memes.only("train", "validation")
    assert 0 < len(tuned) < 100
    found = explain(Explainer(classifier, tmp_path), memes, 5)
    image, text = memes.image[5], memes.text[5]
    assert found.image_alone == pytest.approx(np.mean([chance(image, other) for other in tuned.text]), abs=1e-6)
    assert found.text_alone == pytest.approx(np.mean([chance(other, text) for other in tuned.image]), abs=1e-6)
    assert found.both == round(chance(image, text), 6) and found.note is UNSET


def test_the_sample_is_fixed(tmp_path):
    classifier, memes = made(tmp_path, 1200)
    found = explain(Explainer(classifier, tmp_path), memes, 5)
    assert explain(Explainer(classifier, tmp_path), memes, 5) == found
    chances = [chance(memes.image[5], other) for other in memes.only("train", "validation").text]
    error = np.std(chances) / np.sqrt(explanation._SAMPLE)
    assert 0 < abs(found.image_alone - np.mean(chances)) < 4 * error


@pytest.mark.parametrize(("only", "ignored"), [("image", "text_alone"), ("text", "image_alone")])
def test_a_head_of_one_side_has_one_mean_for_the_other(tmp_path, only, ignored):
    classifier, memes = made(tmp_path, only=only)
    explainer = Explainer(classifier, tmp_path)
    assert len({getattr(explain(explainer, memes, row), ignored) for row in range(8)}) == 1
    assert len({getattr(explain(explainer, memes, row), f"{only}_alone") for row in range(8)}) == 8


@pytest.mark.parametrize("splits", [COLUMN, CARVED])
def test_neighbours_are_the_most_similar_training_memes_and_never_test_memes(tmp_path, splits):
    classifier, memes = made(tmp_path, splits=splits)
    explainer, tuned = Explainer(classifier, tmp_path), memes.only("train", "validation")
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
        (COLUMN, remove("datasets"), "The index of the training memes is missing or damaged"),
        (
            COLUMN,
            lambda a: next((a / "datasets").iterdir()).write_bytes(b"x"),
            "The index of the training memes is missing or damaged",
        ),
        (COLUMN, lambda a: edit_index(a, spec={**SPEC, "model": "other"}), "vectors are of another encoder"),
        (COLUMN, remove("vectors"), "cannot be read; the server's log says why"),
        (COLUMN, lambda a: edit_index(a, labels=[-1] * 100), "cannot be read; the server's log says why"),
        (CARVED, remove("vectors"), "cannot be read; the server's log says why"),
        (CARVED, lambda a: edit_index(a, labels=[1, 0] * 50), "its test memes can no longer be told from the others"),
    ],
)
def test_notes_on_missing_data_have_no_paths(tmp_path, caplog, splits, change, note):
    classifier, memes = made(tmp_path, splits=splits)
    change(tmp_path)
    explainer = Explainer(classifier, tmp_path)
    with caplog.at_level(logging.WARNING, "api"):
        found = explain(explainer, memes, 0)
        assert explain(explainer, memes, 0) == found
    assert found.image_alone is None and found.text_alone is None and found.neighbours == []
    assert found.both == round(chance(memes.image[0], memes.text[0]), 6)
    assert note in found.note and found.note.endswith(".") and "/" not in found.note
    (line,) = caplog.messages
    assert str(tmp_path) in line


@pytest.mark.parametrize("splits", [COLUMN, CARVED])
def test_a_bundle_of_an_older_spec_finds_its_vectors_after_the_data_were_embedded_again(tmp_path, monkeypatch, splits):
    monkeypatch.setitem(SPEC, "decoder", {"exif_rotation": False})
    classifier, memes = made(tmp_path, splits=splits)
    before = explain(Explainer(classifier, tmp_path), memes, 0)
    edit_index(tmp_path, spec={**SPEC, "decoder": {"exif_rotation": True}, "picture": {"rule": 1}})
    assert explain(Explainer(classifier, tmp_path), memes, 0) == before and before.neighbours


def test_a_bundle_without_data_has_no_explanation(tmp_path):
    _, memes = made(tmp_path)
    assert "cannot be read" in explain(Explainer(Product({}), tmp_path), memes, 0).note


def test_changed_counts_give_a_note(tmp_path):
    classifier, memes = made(tmp_path)
    edit_index(tmp_path, labels=[1] * 100)
    found = explain(Explainer(classifier, tmp_path), memes, 0)
    assert found.note.startswith("The training index has changed since this model was tuned")
    assert {one.label for one in found.neighbours} == {"offensive"} and found.image_alone is not None


def test_the_memes_are_loaded_once_at_the_first_explanation(tmp_path, monkeypatch):
    classifier, memes = made(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(explanation, "read_index", lambda path: read.append(path) or read_index(path))
    explainer = Explainer(classifier, tmp_path)
    assert read == []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: explain(explainer, memes, 0), range(16)))
    assert len(read) == 1 and all(one == found[0] and one.neighbours for one in found)


def test_an_explanation_while_loading_has_a_deadline(tmp_path, monkeypatch):
    classifier, memes = made(tmp_path)
    may_read = Event()
    monkeypatch.setattr(explanation, "read_index", lambda path: may_read.wait(PATIENCE) and read_index(path))
    monkeypatch.setattr(explanation, "_PATIENCE_SECONDS", 0.01)
    explainer = Explainer(classifier, tmp_path)
    assert explain(explainer, memes, 0).note == explanation._READING
    monkeypatch.setattr(explanation, "_PATIENCE_SECONDS", PATIENCE)
    may_read.set()
    assert explain(explainer, memes, 0).neighbours


def test_a_model_failure_does_not_fail_the_prediction(tmp_path, monkeypatch, caplog):
    classifier, memes = made(tmp_path)
    monkeypatch.setattr(classifier, "probabilities", lambda *_: 1 / 0)
    found = explain(Explainer(classifier, tmp_path), memes, 0)
    assert found.note == explanation._FAILED and found.both == round(chance(memes.image[0], memes.text[0]), 6)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("text", ["four", None])
def test_a_predictor_explains_with_or_without_a_text(tmp_path, text):
    classifier = FakeClassifier()
    path = write_features(tmp_path, planted_features(40, splits=SPLITS, dims=(48, 2)), spec=classifier.encoder.spec)
    classifier.config |= config_of(tmp_path, path)
    with closing(make_predictor(classifier, artifacts=tmp_path)) as predictor:
        found = predictor.predict(Meme(picture(), text, explain=True), "id").explanation
    assert found.both == found.text_alone == (0.4 if text else 0)  # the fake looks at the text alone
    assert len(found.neighbours) == NEIGHBOURS and found.note is UNSET
