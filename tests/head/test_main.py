import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import SPEC, interrupted, planted_features, write_features
from quick import quick_tuning

from cache import NOTICE, DatasetIndex, demo, followed, read_index, version_folders, write_index
from head import __main__ as command
from head import command as running
from head import nested as nesting
from head import pipeline
from head.bundle.format import load_bundle, read_predictions
from head.candidates.table import BOTH
from head.fitting import ENSEMBLE
from head.judge.delong import Difference
from head.judge.shares import share_of
from head.judge.threshold import aim_words
from head.model.training import train_head
from head.search import workers

SPLITS = ("train", "train", "validation", "test")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_tuning(monkeypatch, importances=True)


def fill(artifacts: Path, splits: tuple[str, ...] = SPLITS, **columns: Any) -> Path:
    return write_features(artifacts, planted_features(120, splits=splits, dims=(6, 6)), **columns)


def run(artifacts: Path, *more: str, name: str = "tune") -> int:
    usual = ["--data=data", "--model=fake", f"--artifacts={artifacts}", "--trials=2", "--folds=2", "--jobs=1"]
    return command.main([name, *usual, *more])


def edit(path: Path, **columns: Any) -> None:
    write_index(path, DatasetIndex(**{**vars(read_index(path)), **columns}))


def test_tune_from_end_to_end(tmp_path, capsys):
    prompts = {"offensive": ["text m0"], "non-offensive": ["text m1"]}
    index = fill(tmp_path, skipped=["cannot be decoded"] + [""] * 119, prompts=prompts)
    assert run(tmp_path, "--review=0.2") == 0
    out, folder = capsys.readouterr().out, followed(tmp_path / "bundles" / "latest")
    planted = planted_features(120, dims=(6, 6))
    labels = planted.label[[row for row in range(1, 120) if row % 4 < 2]]
    assert f"train       59 memes: {labels.sum()} offensive, {59 - labels.sum()} non-offensive" in out
    assert "validation  30 memes" in out and "test  " not in out
    assert "copies      0 memes" in out and "left out    1 without vectors, 0 without a label" in out
    assert "out of fold, 2 folds" in out and "best of 2 trials: number" in out
    assert len(re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", out)) >= 8 * 4  # methods and metrics
    assert (
        re.search(r"threshold   0\.\d{3}, for the highest macro-F1; \d+% of the memes are called offensive", out)
        and "are left to human review" in out
    )
    assert f"bundle      {folder}\nin use      {index.stem}/{folder.name}\n" in out
    assert folder.parent.name == index.stem and "`make report` evaluates on test, once" in out

    config = load_bundle(tmp_path / "bundles" / "latest").config
    assert config["spec"] == SPEC and config["encoder"] == {"model": "fake", "pretrained": ""}
    assert config["shipped"] in (ENSEMBLE, config["reference"]) and config["aim"]["objective"] == "macro-f1"
    assert f"ships       {config['shipped']}" in out
    assert config["study"]["trials"] == 2 and len(config["study"]["history"]) == 2
    assert config["study"]["name"].startswith(f"{index.stem}-")
    assert config["threshold"] == config["methods"][config["shipped"]]["threshold"]
    assert config["data"]["counts"].keys() == {"train", "validation"} and "zero-shot prompts" in config["methods"]
    predictions = json.loads((folder / "predictions.json").read_text())
    assert predictions.keys() == {"tuning"} and len(predictions["tuning"]["ids"]) == 89
    assert not (folder / "metrics.json").exists()


def test_without_a_model_the_only_index_is_tuned_on(tmp_path, capsys):
    unnamed = ["--data=data", "--model=", f"--artifacts={tmp_path}", "--trials=2", "--folds=2", "--jobs=1"]
    assert command.main(["tune", *unnamed]) == 2
    assert "error: data: it was not embedded yet; `make embed DATA=data MODEL=" in capsys.readouterr().err
    index = fill(tmp_path)
    assert command.main(["tune", *unnamed]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"model       fake: the only one that data was embedded with, in {index}\n")
    assert f"bundle      {tmp_path / 'bundles' / index.stem}" in out and NOTICE not in out
    shutil.copy(index, index.with_name(index.name.replace("fake", "other")))
    assert command.main(["tune", *unnamed]) == 2
    assert "it was embedded with 2 models; say which: MODEL=fake; or MODEL=fake" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tune", "nested"])
def test_the_demos_encoder_is_named_before_and_after(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(demo, "_WEIGHTS", "of the demo")
    index = fill(tmp_path, spec={**SPEC, "weights_sha256": "of the demo"})
    assert run(tmp_path, name=name) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{NOTICE}\n") and out.endswith(f"\n\n{NOTICE}\n")
    monkeypatch.setattr(demo, "_CONTENT", demo.content_of(read_index(index).image_keys))
    assert run(tmp_path, name=name) == 0
    assert NOTICE not in capsys.readouterr().out


def test_labels_and_vectors_of_test_cannot_change_the_bundle(tmp_path):
    planted = planted_features(120, splits=SPLITS)
    of_test = planted.split == "test"
    twisted = replace(
        planted,
        label=np.where(of_test, 1 - planted.label, planted.label),
        image=np.where(of_test[:, None], np.float32(7), planted.image),
        subgroup=np.where(of_test, "women", ""),
    )
    bundles = []
    for name, memes in (("a", planted), ("b", twisted)):
        index = write_features(tmp_path / name, memes)
        assert run(tmp_path / name) == 0
        folder = tmp_path / name / "bundles" / index.stem / "latest"
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        config = json.loads(files.pop("config.json"))
        config.pop("created")
        for trial in config["study"]["history"]:
            trial.pop("seconds")
        bundles.append((config, files))
    assert bundles[0][1].keys() == {"head.safetensors", "predictions.json"}
    assert bundles[0] == bundles[1]


def test_the_same_command_again_trains_no_trial_and_gives_the_same_version(tmp_path, monkeypatch):
    fill(tmp_path, ("train",))  # test is carved by the seed
    assert run(tmp_path) == 0
    version = load_bundle(tmp_path / "bundles" / "latest").config["version"]
    counted, calls = interrupted(train_head, at=0)
    monkeypatch.setattr(workers, "train_head", counted)
    assert run(tmp_path) == 0
    assert not calls  # the best trials are trained again for their weights, by another
    assert load_bundle(tmp_path / "bundles" / "latest").config["version"] == version


def test_ctrl_c_exits_130_says_how_to_go_on_and_goes_on(tmp_path, monkeypatch, capsys):
    fill(tmp_path)
    stopped, calls = interrupted(train_head, at=2)
    monkeypatch.setattr(workers, "train_head", stopped)
    assert run(tmp_path) == 130
    said = capsys.readouterr().err
    assert f"1 of 2 trials are kept in sqlite:///{tmp_path}" in said and "the same command resumes from there" in said
    assert said.endswith("stopped\n") and not (tmp_path / "bundles").exists()
    assert run(tmp_path) == 0 and len(calls) == 2 + 1


def test_the_bundle_of_an_earlier_run_stays_whole_when_the_next_is_stopped(tmp_path, monkeypatch):
    fill(tmp_path)
    assert run(tmp_path) == 0
    before = load_bundle(tmp_path / "bundles" / "latest").config
    monkeypatch.setattr(workers, "train_head", interrupted(train_head, at=1)[0])
    assert run(tmp_path, "--trials=4") == 130
    assert load_bundle(tmp_path / "bundles" / "latest").config == before


def aim(objective: str, target: float | None, confidence: float = 0.8) -> dict[str, Any]:
    return {"objective": objective, "target": target, "confidence": confidence}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--target-recall=0.9", "--ship=ensemble"), {"aim": aim("recall", 0.9), "shipped": ENSEMBLE}),
        (("--target-recall=80%", "--confidence=90%"), {"aim": aim("recall", 0.8, 0.9)}),
        (("--target-precision=0.3", "--ship=regression"), {"aim": aim("precision", 0.3)}),
        (
            ("--objective=accuracy", "--ship=regression", "--seed=3"),
            {"aim": aim("accuracy", None), "shipped": BOTH, "seed": 3},
        ),
        (("--ship=random forest",), {"shipped": "random forest"}),
        (("--ship=nearest neighbours, trained",), {"shipped": "nearest neighbours, trained"}),
        (("--protocol=official", "--repeats=2"), {"protocol": {"name": "official", "folds": 2, "repeats": 2}}),
    ],
)
def test_what_is_asked_for_is_in_the_bundle(tmp_path, capsys, options, expected):
    fill(tmp_path)
    assert run(tmp_path, *options) == 0
    config = load_bundle(tmp_path / "bundles" / "latest").config
    assert {name: config[name] for name in expected} == expected
    out = capsys.readouterr().out
    flagged = np.array(read_predictions(tmp_path / "bundles" / "latest")["tuning"]["probability"][config["shipped"]])
    assert config["flagged"] == np.mean(flagged >= config["threshold"])
    told = f"for {aim_words(config['aim'])}; {config['flagged']:.0%} of the memes are called offensive"
    assert f"threshold   {config['threshold']:.3f}, {told}" in out
    assert ("validation" if "official" in str(options) else "out of fold, 2 folds") in out


def test_a_tune_without_an_aim_keeps_the_last_ones_and_says_what_changes(tmp_path, capsys):
    fill(tmp_path)
    said = []
    for options in (("--target-recall=0.9", "--review=0.2"), (), ("--objective=f1", "--review=0"), ()):
        assert run(tmp_path, *options) == 0
        config, out = load_bundle(tmp_path / "bundles" / "latest").config, capsys.readouterr().out
        said.append(
            (config["aim"]["objective"], bool(config["review"]), re.findall("^(?:aim|review) +(.*)", out, re.MULTILINE))
        )
    title = "/".join(version_folders(next((tmp_path / "bundles").glob("[!.l]*")))[0].parts[-2:])
    recall = "a recall of at least 0.9, with 80% confidence"
    assert said[0][:2] == ("recall", True) and title not in str(said[0][2])
    assert said[1][:2] == ("recall", True) and said[1][2][0] == f"{recall}, as in {title}"
    assert said[2][0] == "f1" and said[2][2][0].startswith(f"changes from {recall} (")
    assert said[2][1] is False and said[2][2][1].startswith("changes from 0.2 (") and said[2][2][1].endswith(" to none")
    assert said[3][:2] == ("f1", False)


def test_seeds_are_tuned_one_after_another_and_none_replaces_the_version_in_use(tmp_path, capsys):
    fill(tmp_path)
    assert run(tmp_path, "--seeds=1-2", "--trials=1") == 0
    out, used = capsys.readouterr().out, followed(tmp_path / "bundles" / "latest")
    assert version_folders(used.parent)[0] == used and len(version_folders(used.parent)) == 2
    assert load_bundle(used).config["seed"] == 1 and f"in use      {'/'.join(used.parts[-2:])}\n" in out
    assert re.search(r"mean of 2 seeds .* 0\.\d{3} \+- 0\.\d{3}", out)
    assert run(tmp_path, "--seeds=3", "--trials=1") == 0
    assert "The version in use is the same as before" in capsys.readouterr().out
    assert followed(tmp_path / "bundles" / "latest") == used and len(version_folders(used.parent)) == 3


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "1,1", "0-100", "-1", "1-2-3"])
def test_seeds_that_cannot_be_meant_are_refused(tmp_path, seeds):
    with pytest.raises(SystemExit):
        run(tmp_path, f"--seeds={seeds}")


def test_the_simple_method_ships_unless_the_ensemble_is_better(tmp_path, capsys, monkeypatch):
    fill(tmp_path)
    for lead, why in ((0.0, "the best simple method: the ensemble is no better"), (0.1, "")):
        monkeypatch.setattr(pipeline, "auroc_difference", lambda *_, lead=lead: Difference(lead, 1.0, 0.5))
        assert run(tmp_path) == 0
        config, out = load_bundle(tmp_path / "bundles" / "latest").config, capsys.readouterr().out
        assert config["shipped"] == (config["reference"] if why else ENSEMBLE) and why in out
        assert load_bundle(tmp_path / "bundles" / "latest").ensembles.keys() >= {ENSEMBLE, config["reference"]}


def test_a_candidate_that_the_vectors_do_not_allow_is_refused_by_name(tmp_path, capsys):
    write_features(tmp_path, planted_features(120, splits=SPLITS, dims=(6, 5)))
    assert run(tmp_path, "--ship=cosine of the sides") == 2
    assert "'cosine of the sides': it needs sides that share a space; these have" in capsys.readouterr().err


def relabel(artifacts: Path, index: Path) -> None:
    labels = list(read_index(index).labels)
    edit(index, labels=[1 - labels[0], *labels[1:]])


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda artifacts, index: index.unlink(), (), "no such dataset index"),
        (lambda artifacts, index: shutil.rmtree(artifacts / "vectors"), (), "vectors are not there"),
        (lambda artifacts, index: edit(index, labels=[1] * 120), (), "there are 0 not offensive"),
        (None, ("--trials=0",), "trials: expected at least 1, got 0"),
        (None, ("--jobs=-1",), "jobs: expected at least 1, got -1"),
        (None, ("--folds=1",), "folds: expected 2 to 20, got 1"),
        (None, ("--repeats=0",), "repeats: expected 1 to 20, got 0"),
        (None, ("--seed=-1",), "seed: expected"),
        (None, ("--target-recall=1.5",), "target: expected a number above 0 and up to 1"),
        (None, ("--target-recall=0.9", "--confidence=100%"), "confidence: expected a number from 0.5 to below 1"),
        (None, ("--review=-1",), "review: expected a number from 0 to below 1, got -1.0"),
        (None, ("--storage=studies.db",), "storage: expected a URL such as postgresql://"),
        (None, ("--storage=postgresql://me:hunter2@127.0.0.1:1/studies",), "the study's storage cannot be reached"),
        (None, ("--storage=nothing://me:hunter2@host/studies",), "the study's storage cannot be reached"),
        (None, ("--device=cuda",), "torch sees no GPU here"),
    ],
)
def test_what_the_user_can_put_right_is_one_sentence_and_exit_2(tmp_path, capsys, monkeypatch, change, more, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(workers, "train_head", lambda *_: pytest.fail("trained before it looked"))
    index = fill(tmp_path)
    if change:
        change(tmp_path, index)
    assert run(tmp_path, *more) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and message in said and "hunter2" not in said
    assert all(line.startswith("tune: data data, index ") for line in before)


def test_a_study_of_other_data_is_refused(tmp_path, capsys):
    index = fill(tmp_path)
    assert run(tmp_path, "--trials=1", "--study=mine") == 0
    relabel(tmp_path, index)
    assert run(tmp_path, "--study=mine") == 2
    assert "another name with --study" in capsys.readouterr().err


def test_a_precision_that_no_threshold_reaches_is_one_sentence_and_its_trials_are_kept(tmp_path, capsys):
    write_features(tmp_path, planted_features(120, seed=6, kind="none", splits=SPLITS, dims=(6, 6)))
    assert run(tmp_path, "--target-precision=0.99", "--ship=ensemble") == 2
    said = capsys.readouterr().err
    promise = r"precision 0\.99: 90 labelled memes guarantee a precision of 0\.\d+ at most, with 80% confidence, .*"
    assert re.search(rf"\nerror: fusion ensemble: {promise}; the trials are kept: lower the target .*\n$", said)
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--target-recall=0.9", "--target-precision=0.8"),
            "--target-precision: not allowed with argument --target-recall",
        ),
        (("--target-recall=most",), "--target-recall: expected a share such as 0.9, 90 or 90%, got 'most'"),
    ],
)
def test_two_targets_and_words_are_refused(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, *options)
    assert message in capsys.readouterr().err


def test_one_training_at_a_time_for_each_core_but_no_more_than_a_round(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(running, "tune_source", lambda _, config, *__: seen.append(config.jobs) or pytest.skip("seen"))
    fill(tmp_path)
    for cores, asked in ((1, 0), (2, 0), (64, 0), (64, 3)):
        monkeypatch.setattr(command, "cores", lambda cores=cores: cores)
        with pytest.raises(pytest.skip.Exception):
            run(tmp_path, f"--jobs={asked}")
    assert seen == [1, 2, 8, 3]


def test_libraries_keep_to_the_cores(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(command, "limit_threads", lambda: called.append(True))
    fill(tmp_path)
    assert run(tmp_path, "--jobs=-1") == 2 and called


def test_eight_memes_are_refused_with_what_to_do(tmp_path, capsys):
    write_features(tmp_path, replace(planted_features(8, splits=("train",)), label=np.array([0, 1] * 4)))
    assert run(tmp_path) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and "Add memes, or name the splits in the data" in said


def test_changed_data_begin_a_study_of_their_own_and_so_do_other_folds(tmp_path):
    index = fill(tmp_path)
    studies = []
    for change in (lambda *_: None, relabel):
        change(tmp_path, index)
        for more in ("--folds=2", "--folds=3")[: 2 - len(studies) // 2]:
            assert run(tmp_path, "--trials=1", more) == 0
            studies.append(load_bundle(tmp_path / "bundles" / "latest").config["study"])
    assert len({study["name"] for study in studies}) == 3
    assert all(study["trials"] == 1 for study in studies)


def test_an_index_is_taken_for_the_data_folder_and_latest_follows_the_last_bundle(tmp_path):
    index = fill(tmp_path)
    other = index.with_name("elsewhere.h5")
    shutil.copy(index, other)
    for path in (other, index, other):
        assert run(tmp_path, f"--data={path}", "--trials=1") == 0
        assert (tmp_path / "bundles" / "latest").readlink().parent == Path(path.stem)
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == sorted(["latest", index.stem, other.stem])


def test_the_groups_and_prompts_that_the_data_have_are_used(tmp_path):
    planted = replace(planted_features(120, splits=SPLITS), subgroup=np.array(["women", "men"] * 60))
    write_features(tmp_path, planted)
    assert run(tmp_path) == 0
    rows = load_bundle(tmp_path / "bundles" / "latest").config["tuning_metrics"]["subgroups"]
    assert [row["group"] for row in rows] == ["men", "women"] and sum(row["memes"] for row in rows) == 90


def test_nested_writes_its_estimate_and_says_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(nesting, "_OUTER_FOLDS", 2)
    index = fill(tmp_path)
    assert run(tmp_path, name="nested") == 0
    said = capsys.readouterr()
    assert "outer fold 2 of 2" in said.err and "In nested cross-validation, the shipped method" in said.out
    written = json.loads((tmp_path / "nested" / index.stem / "nested.json").read_text())
    assert written["split"] == "nested" and len(written["folds"]) == 2 and len(written["fingerprint"]) == 64
    assert sum(fold["memes"] for fold in written["folds"]) == 90  # test is left alone
    assert not (tmp_path / "bundles").exists()
    assert run(tmp_path, "--protocol=official", name="nested") == 2
    assert "makes its own folds; leave --protocol out" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "share"), [("0.9", 0.9), ("90", 0.9), ("90%", 0.9), ("1.5%", 0.015), ("1.5", 1.5)])
def test_a_share_is_taken_as_people_write_it(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)
