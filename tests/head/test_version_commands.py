"""`bundles`, `runs`, `use`, `prune` and `threshold`, as a user runs them after two tunings."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import planted_features, write_features
from quick import quick_tuning

from cache import followed, version_folders
from head import __main__ as command
from head.bundle.evaluation import evaluate_bundle
from head.bundle.format import load_bundle, read_predictions
from head.judge.threshold import Aim, choose_threshold

SPLITS = ("train", "train", "validation", "test")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with two versions of one bundle, of seeds 0 and 1."""
    artifacts = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch)
        write_features(artifacts, planted_features(120, splits=SPLITS, dims=(6, 6)))
        for seed in (0, 1):
            usual = ["--data=data", "--model=fake", "--trials=1", "--folds=2", "--jobs=1", f"--seed={seed}"]
            assert command.main(["tune", *usual, f"--artifacts={artifacts}"]) == 0
    return artifacts


@pytest.fixture
def artifacts(tuned: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(tuned, tmp_path / "artifacts", symlinks=True))


def run(artifacts: Path, *words: str) -> int:
    return command.main([*words, f"--artifacts={artifacts}"])


def folders(artifacts: Path) -> list[Path]:
    return version_folders(followed(artifacts / "bundles" / "latest").parent)


def test_bundles_lists_every_version_and_marks_the_one_in_use(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(artifacts, "bundles", "--format=csv") == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    old, new = folders(artifacts)
    assert (first["bundle"], second["bundle"]) == tuple(f"{one.parent.name}/{one.name}" for one in (old, new))
    assert (first[""], second[""]) == ("", "*") and first["memes"] == "90" and first["judged on"] == "tuning"
    config = load_bundle(old).config
    assert first["threshold"] == f"{config['threshold']:.3f}" and first["for"] == "the highest macro-F1"
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", first["AUROC"])
    evaluate_bundle(old, artifacts, lambda _: None)
    assert run(artifacts, "bundles", "--format=csv") == 0
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["judged on"] == "test"


@pytest.mark.parametrize(
    ("form", "mark"), [("text", "-----"), ("markdown", "|---"), ("latex", "\\toprule"), ("csv", ",seed,")]
)
def test_runs_have_mean_and_deviation_over_seeds(
    artifacts: Path, capsys: pytest.CaptureFixture[str], form: str, mark: str
) -> None:
    assert run(artifacts, "runs", f"--format={form}") == 0
    out = capsys.readouterr().out
    assert mark in out and out.count("mean of 2 seeds") == 1
    points = [
        load_bundle(one).config["tuning_metrics"]["methods"][load_bundle(one).config["shipped"]]["figures"]["auroc"][
            "point"
        ]
        for one in folders(artifacts)
    ]
    assert f"{np.mean(points):.3f} +- {np.std(points, ddof=1):.3f}" in out


def test_a_threshold_is_a_new_version_without_training(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = followed(artifacts / "bundles" / "latest")
    old = load_bundle(before)
    assert run(artifacts, "threshold", f"--bundle={before}", "--target-recall=0.8", "--review=0.2") == 0
    out, after = capsys.readouterr().out, followed(artifacts / "bundles" / "latest")
    new = load_bundle(after)
    assert len(folders(artifacts)) == 3 and load_bundle(before).config == old.config
    stored = read_predictions(after)["tuning"]
    chances = np.array(stored["probability"][new.config["shipped"]])
    wanted = choose_threshold(np.array(stored["label"]), chances, Aim("recall", 0.8))
    assert new.config["threshold"] == wanted and new.config["flagged"] == np.mean(chances >= wanted)
    assert (
        new.config["weights_sha256"] == old.config["weights_sha256"] and new.config["version"] != old.config["version"]
    )
    assert new.config["review"]["share"] == 0.2 and new.config["tuning_metrics"]["review"] is not None
    assert f"threshold   {wanted:.3f}, for a recall of at least 0.8" in out and f"bundle      {after}" in out
    assert f"before      {old.config['threshold']:.3f}, for the highest macro-F1" in out and "instead of" in out
    # the ranking is the same, and so is what does not depend on the threshold
    figures = [one.config["tuning_metrics"]["methods"][one.config["shipped"]]["figures"]["auroc"] for one in (old, new)]
    assert figures[0] == figures[1] and old.config["tuning_metrics"]["copies"] == new.config["tuning_metrics"]["copies"]


def test_the_same_aim_gives_the_figures_that_tuning_gave(artifacts: Path) -> None:
    old = load_bundle(followed(artifacts / "bundles" / "latest")).config
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch)
        assert run(artifacts, "threshold", "--bundle", str(followed(artifacts / "bundles" / "latest"))) == 0
    new = load_bundle(followed(artifacts / "bundles" / "latest")).config
    assert {name for name in old if old[name] != new[name]} <= {"created"}


def test_a_target_that_cannot_be_met_is_refused_and_writes_nothing(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(followed(artifacts / "bundles" / "latest"))
    assert run(artifacts, "threshold", "--bundle", bundle, "--target-recall=0.999") == 2
    assert "labelled offensive memes guarantee a recall of" in capsys.readouterr().err and len(folders(artifacts)) == 2


def test_use_goes_back_and_prune_keeps_what_is_in_use(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders(artifacts)
    title = f"{old.parent.name}/{old.name}"
    assert run(artifacts, "use", title) == 0
    assert f"in use      {title}, instead of {new.parent.name}/{new.name}" in capsys.readouterr().out
    assert run(artifacts, "threshold", "--bundle", title, "--objective=f1") == 0
    assert run(artifacts, "use", title) == 0
    assert run(artifacts, "prune", "--keep=1") == 0
    assert (
        f"removed     {new}" in capsys.readouterr().out and old in folders(artifacts) and len(folders(artifacts)) == 2
    )
    assert run(artifacts, "use", "nothing") == 2 and run(artifacts, "prune", "--keep=0") == 2


def test_a_bundle_that_does_not_say_what_it_flags_is_put_into_use(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = folders(artifacts)[0]
    path = old / "config.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "flagged"})
    )
    assert run(artifacts, "use", str(old)) == 0
    assert capsys.readouterr().out.endswith(", for the highest macro-F1\n") and run(artifacts, "bundles") == 0


def test_confidence_without_a_target_is_refused(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(artifacts, "threshold", "--confidence=0.9") == 2
    assert "--confidence: it is that of a target" in capsys.readouterr().err
