"""`python -m finetune` from a tuned bundle to a fine-tuned one, and every way in which it is refused."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import interrupted, picture
from quick import quick_tuning
from sklearn.metrics import roc_auc_score

from cache import read_index
from embed.clip.delta import DELTA
from embed.clip.options import EncoderOptions
from embed.data.dataset import read_dataset
from embed.job import embed_dataset
from embed.pictures import hashing
from embed.plan.settings import EmbedSettings
from finetune import start as starting
from finetune import train as training
from finetune.__main__ import main
from finetune.train import Model
from head import __main__ as tuning
from head.bundle.evaluation import FINETUNED, FROZEN, evaluate_bundle
from head.bundle.format import load_bundle, read_part
from head.candidates.table import BOTH
from head.data.features import load_everything, load_tuning, usable_rows
from head.data.folds import Protocol
from head.model.linear import LinearHead
from report.__main__ import main as report

ENCODER = f"local-dir:{Path('demo/encoder').resolve()}"
COUNT = 72
QUICK = ("--epochs=2", "--blocks=1", "--learning-rate=3e-4")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch)
        yield


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts and data, in one folder, with a bundle that was tuned on memes without splits; not to be changed."""
    folder = tmp_path_factory.mktemp("tuned")
    data, source = folder / "data", read_dataset(Path("demo/memes"))
    data.mkdir()
    with (data / "memes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label"])
        for meme in source[1][:: len(source[1]) // COUNT][:COUNT]:
            name = Path(meme.image).name
            shutil.copyfile(source[0] / meme.image, data / name)
            writer.writerow([name, meme.text, meme.label])
    settings = EmbedSettings(str(data), ENCODER, "", folder, "cpu", EncoderOptions(precision="fp32"))
    embed_dataset(settings, lambda _: None)
    usual = [f"--data={data}", f"--model={ENCODER}", f"--artifacts={folder}", "--folds=2", "--jobs=1"]
    assert tuning.main(["tune", *usual, "--trials=2", "--review=0.3", "--ship=ensemble"]) == 0
    return folder


@pytest.fixture
def artifacts(tuned: Path, tmp_path: Path) -> Path:
    """A copy of the results; the data stay where they are."""
    return shutil.copytree(tuned, tmp_path / "artifacts", symlinks=True)


@pytest.fixture
def any_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever validation says, the last epoch is the best."""
    monkeypatch.setattr(training, "_best", lambda history: len(history) - 1)


@pytest.fixture(scope="module")
def finetuned(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results with a fine-tuned bundle; not to be changed."""
    artifacts = shutil.copytree(tuned, tmp_path_factory.mktemp("finetuned") / "artifacts", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_best", lambda history: len(history) - 1)
        assert run(artifacts) == 0
    return artifacts


def run(artifacts: Path, *more: str, bundle: str = "latest") -> int:
    usual = [f"--bundle={artifacts / 'bundles' / bundle}", f"--artifacts={artifacts}", "--device=cpu"]
    return main([*usual, *QUICK, *more])


def config_of(artifacts: Path) -> dict[str, Any]:
    return load_bundle(artifacts / "bundles" / "latest").config


def features_of(artifacts: Path, index: str, everything: bool = False) -> Any:
    read = load_everything if everything else load_tuning
    return read(read_index(artifacts / "datasets" / index), artifacts / "vectors", True, 0)


def test_the_bundle_says_what_was_done(finetuned: Path, tuned: Path) -> None:
    config, before = config_of(finetuned), config_of(tuned)
    facts = config["finetuned"]
    assert (finetuned / "bundles" / "latest").readlink().parts[0] == config["name"] == f"{before['name']}-finetuned"
    assert facts["from"] == {"name": before["name"], "version": before["version"]}
    assert (facts["blocks"], facts["towers"], facts["lora"], facts["epochs"]) == (1, "both", 0, 2)
    assert [entry["epoch"] for entry in facts["history"]] == [0, 1, 2] and facts["best_epoch"] == 2
    assert facts["trained"] > 100_000 and facts["memes_per_second"] > 0 and facts["seconds"] > 0
    assert [*config["methods"]][:3] == [FINETUNED, FROZEN, BOTH] and config["shipped"] == FINETUNED
    assert config["protocol"]["name"] == "official" and config["aim"] == before["aim"]
    assert config["review"]["share"] == 0.3 and config["study"]["picks"] == before["study"]["picks"]
    assert {**config["spec"], "delta_sha256": None} == {**before["spec"], "delta_sha256": None}
    assert len(config["spec"]["delta_sha256"]) == 64
    assert (finetuned / "bundles" / "latest" / DELTA).is_file() and not (
        finetuned / "finetune" / before["name"]
    ).exists()


def test_the_splits_are_those_of_the_frozen_vectors(finetuned: Path, tuned: Path) -> None:
    config = config_of(finetuned)
    frozen = features_of(finetuned, config["finetuned"]["frozen_index"], everything=True)
    index = read_index(finetuned / "datasets" / config["data"]["index"])
    used = {index.ids[row]: index.splits[row] for row in usable_rows(index)}
    assert used == dict(zip(frozen.ids.tolist(), frozen.split.tolist()))
    assert {split: list(used.values()).count(split) > 7 for split in ("train", "validation", "test")} == {
        "train": True,
        "validation": True,
        "test": True,
    }


def test_what_was_trained_is_what_is_served(finetuned: Path) -> None:
    bundle = load_bundle(finetuned / "bundles" / "latest")
    config = bundle.config
    memes = features_of(finetuned, config["data"]["index"]).only("validation")
    chances = bundle.calibration(bundle.shipped.score(memes))
    tuning = read_part(finetuned / "bundles" / "latest", "predictions.json")["tuning"]
    assert tuning["ids"] == memes.ids.tolist()
    # each fifth is told after the epoch that the others choose
    assert np.corrcoef(tuning["probability"][FINETUNED], chances)[0, 1] > 0.9
    # by open_clip's modules while it trained, by the quick towers afterwards
    trained = config["finetuned"]["history"][-1]["validation_auroc"]
    assert trained == pytest.approx(roc_auc_score(memes.label, chances), abs=0.01)
    assert not np.allclose(chances, tuning["probability"][FROZEN], atol=1e-3)


def test_test_is_judged_by_the_vectors_that_each_method_had(finetuned: Path, tmp_path: Path) -> None:
    artifacts = shutil.copytree(finetuned, tmp_path / "artifacts", symlinks=True)
    folder = artifacts / "bundles" / "latest"
    evaluate_bundle(folder, artifacts, lambda _: None)
    bundle, judged = load_bundle(folder), read_part(folder, "predictions.json")["test"]
    indexes = {FINETUNED: bundle.config["data"]["index"], FROZEN: bundle.config["finetuned"]["frozen_index"]}
    for method, index in indexes.items():
        test = features_of(artifacts, index, everything=True).only("test")
        logits = bundle.ensembles[method].score(test)
        calibration = bundle.config["methods"][method]["calibration"]
        expected = 1 / (1 + np.exp(-(calibration["slope"] * logits + calibration["offset"])))
        np.testing.assert_allclose(judged["probability"][method], expected, atol=1e-12)
    found = read_part(folder, "metrics.json")
    assert found["frozen"]["reference"] == FROZEN and 0 < found["frozen"]["p"] <= 1


def test_its_report_tells_of_it(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = shutil.copytree(finetuned, tmp_path / "artifacts", symlinks=True)
    assert report([str(artifacts / "bundles" / "latest"), f"--artifacts={artifacts}"]) == 0
    out = capsys.readouterr().out
    assert "* fine-tuned " in out and "The frozen head, on the encoder before fine-tuning, has" in out
    page = (artifacts / "bundles" / "latest" / "report.html").read_text("utf-8")
    assert "<h2>Fine-tuning</h2>" in page and 'alt="Losses"' in page
    assert "the last block of both towers, and the heads of" in page and "cross-validated AUROC against" in page


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    artifacts: Path,
    finetuned: Path,
    any_better: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopping, _ = interrupted(Model.logits, 6)
    with monkeypatch.context() as patch:
        patch.setattr(Model, "logits", lambda self, rows: stopping(self, rows))
        assert run(artifacts) == 130
    assert "run the same command to resume" in capsys.readouterr().err
    assert (artifacts / "bundles" / "latest").readlink().parts[0] == config_of(artifacts)["name"] and list(
        (artifacts / "finetune").iterdir()
    )
    counted, calls = interrupted(Model.logits, 0)
    monkeypatch.setattr(Model, "logits", lambda self, rows: counted(self, rows))
    assert run(artifacts) == 0
    assert len(calls) <= 4  # one epoch of two
    for name in (DELTA, "head.safetensors", "predictions.json"):
        ours, whole = (one / "bundles" / "latest" / name for one in (artifacts, finetuned))
        assert ours.read_bytes() == whole.read_bytes(), name


def test_low_rank_changes_of_one_tower(artifacts: Path, any_better: None) -> None:
    assert run(artifacts, "--lora=2", "--towers=image", "--epochs=1") == 0
    facts = config_of(artifacts)["finetuned"]
    assert (facts["lora"], facts["towers"]) == (2, "image")
    evaluate_bundle(artifacts / "bundles" / "latest", artifacts, lambda _: None)


def test_unchanged_pictures_are_not_hashed_again(
    artifacts: Path, any_better: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "content_key", lambda data: pytest.fail("a picture was hashed"))
    assert run(artifacts) == 0


def test_where_nothing_is_gained_no_bundle_is_written(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "_best", lambda _: 0)
    before = sorted((artifacts / "bundles").iterdir())
    assert run(artifacts) == 0
    assert "No epoch improved on the frozen head on validation, so no bundle is written" in capsys.readouterr().out
    assert sorted((artifacts / "bundles").iterdir()) == before and "finetuned" not in config_of(artifacts)
    assert not [*(artifacts / "finetune").glob("*/*")]


def test_a_fine_tuned_bundle_is_no_start(finetuned: Path, tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(finetuned) == 2
    before = finetuned / "bundles" / config_of(tuned)["name"]
    said = f"fine-tuned already; start from the bundle that it came from: --bundle {before}"
    assert before.is_dir() and said in capsys.readouterr().err


def edit(artifacts: Path, **values: Any) -> None:
    path = artifacts / "bundles" / "latest" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {"imported": True}}, "tuned on imported vectors, so there is no encoder to fine-tune"),
        ({"data": {"index": "other.h5", "source": "data", "fingerprint": ""}}, "the index of its memes is not under"),
    ],
)
def test_a_bundle_that_is_no_start_is_refused(
    change: dict[str, Any], words: str, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(artifacts, **change)
    assert run(artifacts) == 2
    assert words in capsys.readouterr().err


def test_a_bundle_whose_memes_have_changed_is_no_start(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(artifacts, data={**config_of(artifacts)["data"], "fingerprint": "ab" * 32})
    assert run(artifacts) == 2
    assert "have changed since it was tuned" in capsys.readouterr().err


def test_a_picture_that_has_changed_is_named(artifacts: Path, tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = sorted((tuned / "data").glob("*.png"))[3]
    data = changed.read_bytes()
    try:
        changed.write_bytes(picture(1))
        assert run(artifacts) == 2
        assert f"{changed.name}: it has changed since it was embedded" in capsys.readouterr().err
        changed.unlink()
        assert run(artifacts) == 2
        assert f"{changed.name}: " in capsys.readouterr().err
    finally:
        changed.write_bytes(data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--blocks=0",), "blocks: expected a whole number of at least 1"),
        (("--blocks=9",), "blocks: expected 1 to 4, as this model's image tower has, got 9"),
        (("--learning-rate=-1",), "learning_rate: expected a number above 0"),
        (("--lora=-1",), "rank: expected a whole number of at least 0"),
    ],
)
def test_impossible_settings_are_refused(
    options: tuple[str, ...], words: str, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(artifacts, *options) == 2
    assert words in capsys.readouterr().err


def test_a_tower_that_no_head_reads_is_not_trained(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artifacts / "bundles" / "latest" / "config.json"
    study = json.loads(path.read_text("utf-8"))["study"]
    edit(artifacts, study={**study, "picks": [{"method": "logistic regression, text only", "picked": 1}]})
    assert run(artifacts, "--towers=image") == 2
    assert "the heads of this bundle read text vectors alone; use --towers text" in capsys.readouterr().err


@pytest.mark.parametrize("name", [BOTH, "cosine of the sides", "logistic regression, all inputs"])
def test_a_shipped_candidate_is_where_fine_tuning_starts_and_learns_with_the_encoder(
    name: str, artifacts: Path, any_better: None
) -> None:
    usual = [f"--data={artifacts.parent}", "--folds=2", "--jobs=1", "--trials=2", f"--artifacts={artifacts}"]
    index = next((artifacts / "datasets").glob("*.h5"))
    assert tuning.main(["tune", *usual, f"--data={index}", f"--ship={name}"]) == 0
    assert run(artifacts) == 0
    bundle = load_bundle(artifacts / "bundles" / "latest")
    (head,) = bundle.shipped.heads
    (before,) = bundle.ensembles[FROZEN].heads
    assert isinstance(head, LinearHead) and isinstance(before, LinearHead) and head.config == before.config
    assert not torch.equal(head.weight, before.weight)


@pytest.mark.parametrize("name", ["random forest", "nearest neighbours, both", "nearest neighbours, trained"])
def test_votes_and_trees_cannot_be_fine_tuned_and_it_says_so(
    name: str, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artifacts / "bundles" / "latest" / "config.json"
    study = json.loads(path.read_text("utf-8"))["study"]
    edit(artifacts, study={**study, "picks": [{"method": name, "picked": 1}]})
    assert run(artifacts) == 2
    assert "has no gradient for the encoder (nearest neighbours, trees)" in capsys.readouterr().err


def test_the_start_knows_nothing_of_the_validation_memes(tuned: Path) -> None:
    start = starting.read_start(tuned / "bundles" / "latest", tuned)
    assert start.judging.protocol == Protocol("official") and set(start.folds.tolist()) == {0, -1}
    head = starting.frozen_head(start)
    held = start.folds == 0
    assert np.isfinite(head.method.out_of_fold[held]).all() and np.isnan(head.method.out_of_fold[~held]).all()
    # others made the scores than those that it is, but like them
    own = head.method.score(start.features.at(np.flatnonzero(held)))
    assert np.corrcoef(head.method.out_of_fold[held], own)[0, 1] > 0.6
    assert np.abs(head.method.out_of_fold[held] - own).max() > 1e-3
