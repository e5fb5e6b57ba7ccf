"""Serving a bundle with a fine-tuned encoder."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from api.__main__ import main
from api.commands.predict_folder import predict_folder
from api.http.app import create_app
from api.http.service import Service
from api.metrics import Metrics
from api.model import classifier as classifier_module
from api.model.classifier import MemeClassifier
from api.model.loading import load_model
from api.model.prediction import Meme
from cache import SpecMismatch, VectorStore, file_digest, read_index
from embed.clip.delta import DELTA, write_delta
from embed.clip.weights import EncoderUnavailable
from head.bundle.format import UnusableBundle, load_bundle
from tests.api.commands.test_export import COUNT, CPU, ENCODER, Made, edit, exported, loaded, make, text_of
from tests.api.model.test_card import FINETUNED
from tests.api.model.test_classifier import as_features, point_to, settings_of
from tests.embed.clip.test_delta import low_rank, whole


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory, "fp32", split=True)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory, "fp32", split=True, change=whole(0.1))


def from_the_cache(made: Made) -> list[float]:
    """The probability of each meme by `head` on the cached embeddings."""
    bundle = load_bundle(made.bundle)
    index = read_index(made.artifacts / "datasets" / bundle.config["data"]["index"])
    store = VectorStore(made.artifacts / "vectors", index.spec)
    features = as_features(store.read("image", index.image_keys), store.read("text", index.text_keys))
    return bundle.calibration(bundle.shipped.score(features)).tolist()


def served(classifier: MemeClassifier, made: Made) -> list[float]:
    pixels = [classifier.prepare_image(made.picture(row)) for row in range(COUNT)]
    return classifier(pixels, [classifier.prepare_text(text_of(row)) for row in range(COUNT)]).tolist()


def test_bundle_and_export_equal_the_batch_job(finetuned: Made) -> None:
    expected = from_the_cache(finetuned)
    assert np.ptp(expected) > 0.2, "a constant would pass"
    for folder in (finetuned.bundle, finetuned.export):
        classifier = MemeClassifier.from_bundle(folder, CPU)
        assert served(classifier, finetuned) == pytest.approx(expected, abs=1e-5)


def test_the_delta_changes_the_probabilities(finetuned: Made, tmp_path: Path) -> None:
    bundle = edit(copied(finetuned.bundle, tmp_path), lambda config: config["spec"].pop("delta_sha256"))
    naive = served(MemeClassifier.from_bundle(bundle, CPU), finetuned)
    assert np.abs(np.subtract(naive, from_the_cache(finetuned))).max() > 0.05


def copied(bundle: Path, folder: Path) -> Path:
    return shutil.copytree(bundle, folder / "copy")


def test_an_export_has_the_original_encoder_and_the_delta(
    finetuned: Made, frozen: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (finetuned.export / DELTA).read_bytes() == (finetuned.bundle / DELTA).read_bytes()
    for path in (frozen.export / "encoder").iterdir():
        assert (finetuned.export / "encoder" / path.name).read_bytes() == path.read_bytes()
    assert exported(finetuned, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    size = (finetuned.bundle / DELTA).stat().st_size
    assert f"delta     {DELTA}, added to the encoder on loading ({size / 1e6:.1f} MB)" in lines
    assert "heads     config.json, head.safetensors, metrics.json" in lines[1] and len(lines) == 6


def test_an_export_of_a_frozen_bundle_has_no_delta(
    frozen: Made, finetuned: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copied(frozen.bundle, tmp_path)
    shutil.copyfile(finetuned.bundle / DELTA, bundle / DELTA)
    assert exported(frozen, tmp_path / "out", bundle=bundle) == 0
    assert not (tmp_path / "out" / DELTA).exists() and "delta" not in capsys.readouterr().out
    assert served(MemeClassifier.from_bundle(bundle, CPU), frozen) == pytest.approx(from_the_cache(frozen), abs=1e-5)


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


@pytest.mark.parametrize("of", ["bundle", "export"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (Path.unlink, "cannot be read .No such file"),
        (lambda path: path.write_bytes(b""), "not the fine-tuning of config.json"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not the fine-tuning of config.json"),
        (flip, "not the fine-tuning of config.json"),
        (lambda path: write_delta(path, low_rank()), "not the fine-tuning of config.json"),
    ],
    ids=["missing", "empty", "cut short", "one bit", "of another bundle"],
)
def test_a_wrong_delta_is_refused(
    finetuned: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    of: str,
    damage: Callable[[Path], Any],
    complaint: str,
) -> None:
    folder = copied(getattr(finetuned, of), tmp_path)
    damage(folder / DELTA)
    with pytest.raises(UnusableBundle, match=f"{DELTA}: {complaint}.*copy the bundle again, whole"):
        MemeClassifier.from_bundle(folder, CPU)
    assert exported(finetuned, tmp_path / "out", bundle=folder) == 2
    assert f"\nerror: {folder / DELTA}: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_delta_of_another_encoder_is_refused(finetuned: Made, tmp_path: Path) -> None:
    """With the right digest, of a model with other blocks."""
    folder = copied(finetuned.bundle, tmp_path)
    write_delta(folder / DELTA, {"visual.transformer.resblocks.99.ln_1.bias": torch.ones(9)})
    edit(folder, lambda config: config["spec"].update(delta_sha256=file_digest(folder / DELTA)))
    with pytest.raises(EncoderUnavailable, match=f"{DELTA}: .*of another one; copy the bundle again"):
        MemeClassifier.from_bundle(folder, CPU)


def test_a_file_that_changes_between_the_check_and_the_load_is_refused(
    finetuned: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(finetuned.bundle, tmp_path)
    inside = classifier_module.bundle_delta

    def swapped(*asked: Any) -> Path | None:
        path = inside(*asked)
        write_delta(folder / DELTA, low_rank())
        return path

    monkeypatch.setattr(classifier_module, "bundle_delta", swapped)
    with pytest.raises(SpecMismatch, match="delta_sha256"):
        MemeClassifier.from_bundle(folder, CPU)


def test_the_delta_is_added_to_a_given_encoder(finetuned: Made, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(ENCODER)
    classifier = MemeClassifier.from_bundle(finetuned.bundle, CPU, model=f"local-dir:{tmp_path / 'moved'}")
    assert served(classifier, finetuned) == pytest.approx(from_the_cache(finetuned), abs=1e-5)


def test_a_reload_between_frozen_and_fine_tuned_reuses_nothing(frozen: Made, finetuned: Made, tmp_path: Path) -> None:
    """Frozen to fine-tuned and back, then to an export with the same encoder."""
    latest = tmp_path / "latest"
    settings, metrics = settings_of(latest), Metrics()
    latest.symlink_to(frozen.bundle)
    service = Service(settings, metrics, lambda old: load_model(settings, metrics, old=old))
    encoders, kept = [], []
    expected = {made.bundle: from_the_cache(made) for made in (frozen, finetuned)}
    for made, folder in (
        (frozen, None),
        (finetuned, finetuned.bundle),
        (frozen, frozen.bundle),
        (frozen, frozen.export),
    ):
        if folder:
            point_to(latest, folder)
            assert service.reload()
        encoders.append(service.predictor.classifier.encoder)
        kept.append(service.predictor.embedding_cache)
        for _ in range(2):  # the second time from the vectors that are kept
            answers = [service.begin(Meme(made.picture(row), text_of(row)), "id")().probability for row in range(4)]
            assert answers == pytest.approx(expected[made.bundle][:4], abs=1e-5)
        card = create_app(service).test_client().get("/model").get_json()
        assert ("finetuned" in card) == ("delta_sha256" in card["encoder"]) == (made is finetuned)
    assert np.abs(np.subtract(expected[frozen.bundle], expected[finetuned.bundle]))[:4].max() > 1e-2
    same = [[one is other for other in encoders] for one in encoders]
    assert same == [[one is other for other in kept] for one in kept]
    assert same == [[True, False, False, False], [False, True, False, False], *[[False, False, True, True]] * 2]
    service.predictor.close()


def test_a_reload_with_a_damaged_delta_keeps_the_old_model(frozen: Made, finetuned: Made, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.symlink_to(frozen.bundle)
    settings, metrics = settings_of(latest), Metrics()
    service = Service(settings, metrics, lambda old: load_model(settings, metrics, old=old))
    with closing(service.predictor):
        before = service.predictor
        broken = copied(finetuned.bundle, tmp_path)
        flip(broken / DELTA)
        point_to(latest, broken)
        assert not service.reload() and service.predictor is before


@pytest.mark.parametrize("of", ["bundle", "export"])
def test_explanations_use_the_fine_tuned_embeddings(finetuned: Made, of: str) -> None:
    index = read_index(next((finetuned.artifacts / "datasets").iterdir()))
    assert index.spec["delta_sha256"] == file_digest(finetuned.bundle / DELTA)
    with loaded(getattr(finetuned, of), artifacts=finetuned.artifacts) as found:
        for row in range(0, COUNT, 5):
            said = found.predictor.predict(Meme(finetuned.picture(row), text_of(row), explain=True), "id").explanation
            if index.ids[row] in finetuned.tuned:  # then it is its own neighbour, if the vectors are of this encoder
                assert said.neighbours[0].id == index.ids[row] and said.neighbours[0].similarity > 1 - 1e-4
            assert said.image_alone is not None and {near.id for near in said.neighbours} <= finetuned.tuned


def test_the_commands_use_the_fine_tuned_encoder(
    finetuned: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = from_the_cache(finetuned)
    path = finetuned.data / "pictures" / "1.png"
    bundle = ["--bundle", str(finetuned.bundle), "--device", "cpu"]
    assert main(["predict", str(path), "--text", text_of(1), *bundle]) == 0
    assert json.loads(capsys.readouterr().out)["probability"] == pytest.approx(expected[1], abs=1e-5)
    settings = settings_of(finetuned.bundle, ocr="off")
    assert predict_folder(finetuned.data / "memes.jsonl", tmp_path / "out.csv", settings, lambda _: None) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=1e-5)


def test_the_document_describes_the_card_of_a_fine_tuned_model(finetuned: Made) -> None:
    settings, metrics = settings_of(finetuned.bundle), Metrics()
    service = Service(settings, metrics, lambda old: load_model(settings, metrics, old=old))
    with closing(service.predictor):
        client = create_app(service).test_client()
        described = client.get("/openapi.json").get_json()["components"]["schemas"]
        card = client.get("/model").get_json()
    assert described["ModelCard"]["properties"]["finetuned"] == {"$ref": "#/components/schemas/FineTuning"}
    assert "finetuned" not in described["ModelCard"]["required"]
    assert card["finetuned"].keys() == described["FineTuning"]["properties"].keys()
    assert card["finetuned"]["from"] == FINETUNED["from"]
