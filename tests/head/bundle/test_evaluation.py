import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import planted_features, write_features
from quick import quick_tuning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

from cache import DatasetIndex, VectorStore, read_index, write_index
from head import __main__ as command
from head.bundle import evaluation as evaluate
from head.bundle.evaluation import FINETUNED, FROZEN, MISTAKES, NEIGHBOURS, describe, evaluate_bundle
from head.bundle.format import UnusableBundle, load_bundle
from head.bundle.readings import read_readings
from head.candidates.table import BOTH
from head.data.features import Features, load_tuning
from head.fitting import ENSEMBLE
from head.judge.delong import auroc_difference
from head.judge.metrics import Estimate, share
from head.judge.verdict import stated_p, verdict
from head.model.method import MAJORITY

QUICK = ("--data=data", "--model=fake", "--trials=2", "--folds=2", "--jobs=1")
SPLITS = ("train", "train", "validation", "test")
IMAGE = "logistic regression, image only"


def tune(artifacts: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch, (8, 16))
        assert command.main(["tune", *QUICK, "--ship=ensemble", f"--artifacts={artifacts}", *more]) == 0


def memes() -> Features:
    """Two groups, and two memes of test that are copies of memes of train (rows 3 of 0, and 7 of 1)."""
    planted = planted_features(200, splits=SPLITS)
    image, text = planted.image.copy(), planted.text.copy()
    for copy, original in ((3, 0), (7, 1)):
        image[copy], text[copy] = image[original], text[original]
    return replace(planted, image=image, text=text, subgroup=np.array(["women", "", "men", "women", "men"] * 40))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Artifacts with a tuned bundle, not to be changed."""
    artifacts = tmp_path_factory.mktemp("made")
    write_features(artifacts, memes())
    tune(artifacts, "--review=0.3")
    return artifacts


@pytest.fixture
def artifacts(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "artifacts", symlinks=True)


@pytest.fixture(scope="module")
def evaluated(made, tmp_path_factory) -> Path:
    """The folder of a bundle that has looked at test."""
    artifacts = shutil.copytree(made, tmp_path_factory.mktemp("evaluated") / "artifacts", symlinks=True)
    said: list[str] = []
    evaluate_bundle(artifacts / "bundles" / "latest", artifacts, said.append)
    assert said == ["evaluating on the 50 test memes, once"]
    return artifacts / "bundles" / "latest"


def part(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def test_test_is_looked_at_once(artifacts, monkeypatch):
    folder = artifacts / "bundles" / "latest"
    evaluate_bundle(folder, artifacts, lambda line: None)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(VectorStore, "read", lambda *_: pytest.fail("the vectors were read again"))
    shutil.rmtree(artifacts / "vectors")
    evaluate_bundle(folder, artifacts, lambda line: pytest.fail("looked at test again"))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_each_look_at_test_is_noted_whatever_the_bundle(artifacts):
    folder = artifacts / "bundles" / "latest"
    config = part(folder, "config")
    assert read_readings(artifacts, config) == []
    evaluate_bundle(folder, artifacts, lambda line: None)
    evaluate_bundle(folder, artifacts, lambda line: None)  # which reads nothing
    tune(artifacts, "--review=0.3", "--seed=5")
    evaluate_bundle(folder, artifacts, lambda line: None)
    other = part(folder, "config")
    (log,) = (artifacts / "test-readings").iterdir()
    with log.open("a") as file:
        file.write('{"bundle": "cut sho')
    found = read_readings(artifacts, other)
    assert [(one["bundle"], one["version"]) for one in found] == [(c["name"], c["version"]) for c in (config, other)]
    assert all(one["memes"] == 50 and re.fullmatch(r"\d{4}-\d\d-\d\d", one["date"]) for one in found)


def test_the_figures_are_those_of_scikit_learn_at_thresholds_chosen_before(evaluated):
    config, metrics, test = (
        part(evaluated, "config"),
        part(evaluated, "metrics"),
        part(evaluated, "predictions")["test"],
    )
    planted = memes()
    assert test["ids"] == planted.only("test").ids.tolist() and metrics["split"] == "test"
    assert metrics["methods"].keys() == config["methods"].keys() == test["probability"].keys()
    for name, method in metrics["methods"].items():
        chances, threshold = np.array(test["probability"][name]), config["methods"][name]["threshold"]
        assert method["threshold"] == threshold
        assert method["figures"]["auroc"]["point"] == pytest.approx(roc_auc_score(test["label"], chances))
        assert method["figures"]["accuracy"]["point"] == accuracy_score(test["label"], chances >= threshold)
    assert metrics["reference"] == config["reference"]
    assert (metrics["p"] is None) is (config["shipped"] == config["reference"])


def test_the_regression_among_the_methods_is_scikit_learns(evaluated):
    planted, penalty = memes(), part(evaluated, "config")["methods"][IMAGE]["settings"]["C"] / 8  # of eight columns
    rows = planted.image / np.linalg.norm(planted.image, axis=1, keepdims=True)
    tuned_on = planted.split != "test"
    scaled = (rows - rows[tuned_on].mean(axis=0)) / rows[tuned_on].std(axis=0)
    known = LogisticRegression(C=penalty, max_iter=1000).fit(scaled[tuned_on], planted.label[tuned_on])
    ours = part(evaluated, "predictions")["test"]["probability"][IMAGE]
    theirs = known.decision_function(scaled[~tuned_on])  # of all memes; ours is the mean over the folds
    assert np.corrcoef(np.log(np.array(ours) / (1 - np.array(ours))), theirs)[0, 1] > 0.99


def test_the_rates_of_each_group_are_counted(evaluated):
    config, test = part(evaluated, "config"), part(evaluated, "predictions")["test"]
    called = np.array(test["probability"][ENSEMBLE]) >= config["threshold"]
    label, group = np.array(test["label"]), np.array(test["group"])
    rows = part(evaluated, "metrics")["subgroups"]
    assert [row["group"] for row in rows] == ["", "men", "women"]
    for row in rows:
        there = group == row["group"]
        quiet, loud = there & (label == 0), there & (label == 1)
        assert (row["memes"], row["offensive"]) == (there.sum(), loud.sum())
        assert row["false_positive_rate"]["point"] == pytest.approx(called[quiet].mean())
        assert row["false_negative_rate"]["point"] == pytest.approx((~called)[loud].mean())


def test_copies_of_memes_tuned_on_are_counted_and_left_out_of_a_second_auroc(evaluated):
    test, copies = part(evaluated, "predictions")["test"], part(evaluated, "metrics")["copies"]
    others = ~np.isin(test["ids"], ["m3", "m7"])
    assert copies["memes"] == 2 and others.sum() == 48
    chances = np.array(test["probability"][ENSEMBLE])[others]
    assert copies["auroc_without"]["point"] == pytest.approx(roc_auc_score(np.array(test["label"])[others], chances))


def test_the_review_band_that_tuning_chose_is_measured(evaluated):
    config, test = part(evaluated, "config"), part(evaluated, "predictions")["test"]
    band, review = config["review"], part(evaluated, "metrics")["review"]
    assert band["share"] == 0.3 and band["low"] <= config["threshold"] <= band["high"]
    chances, label = np.array(test["probability"][ENSEMBLE]), np.array(test["label"])
    answered = (chances < band["low"]) | (chances >= band["high"])
    wrong = (chances >= config["threshold"]) != label
    assert review["coverage"] == pytest.approx(answered.mean())
    assert review["error"]["point"] == pytest.approx(wrong[answered].mean())


def test_the_gallery_shows_the_most_confident_mistakes_and_what_they_are_like(evaluated):
    config, test, gallery = (part(evaluated, name) for name in ("config", "predictions", "gallery"))
    chances = dict(zip(test["test"]["ids"], test["test"]["probability"][ENSEMBLE]))
    label, threshold = dict(zip(test["test"]["ids"], test["test"]["label"])), config["threshold"]
    mistakes, planted = gallery["mistakes"], memes()
    wrong = [name for name in chances if (chances[name] >= threshold) != label[name]]

    def confidence(name: str) -> float:
        room = 1 - threshold if chances[name] >= threshold else threshold
        return abs(chances[name] - threshold) / room

    assert [mistake["id"] for mistake in mistakes] == sorted(wrong, key=confidence, reverse=True)[:MISTAKES]
    assert 0 < len(mistakes) and gallery["data"] == "data"
    tuned_on = set(planted.ids[planted.split != "test"].tolist())
    for mistake in mistakes:
        assert mistake["text"] == f"text {mistake['id']}" and mistake["image"] == f"{mistake['id']}.png"
        assert mistake["probability"] == chances[mistake["id"]] and mistake["label"] == label[mistake["id"]]
        near = mistake["neighbours"]
        assert len(near) == NEIGHBOURS and {one["id"] for one in near} <= tuned_on
        assert near == sorted(near, key=lambda one: -one["similarity"])


def test_a_copy_is_its_own_nearest_neighbour(evaluated, artifacts):
    planted = memes()
    index = read_index(next((artifacts / "datasets").iterdir()))
    config = {**part(evaluated, "config"), "threshold": 0.5}
    wrong = np.where(planted.label == 1, 0.1, 0.9)  # every meme a mistake
    shown = evaluate._gallery(
        index, planted.at(np.array([3, 7])), wrong[[3, 7]], planted.only("train", "validation"), config
    )
    assert [mistake["neighbours"][0]["id"] for mistake in shown["mistakes"]] == ["m0", "m1"]
    assert all(mistake["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5) for mistake in shown["mistakes"])


def edit_index(artifacts: Path, **columns: Any) -> None:
    (path,) = (artifacts / "datasets").iterdir()
    write_index(path, DatasetIndex(**{**vars(read_index(path)), **columns}))


def _flip_a_label(artifacts: Path, row: int) -> None:
    (path,) = (artifacts / "datasets").iterdir()
    labels = list(read_index(path).labels)
    labels[row] = 1 - labels[row]
    edit_index(artifacts, labels=labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda artifacts: _flip_a_label(artifacts, 0),
        lambda artifacts: edit_index(artifacts, splits=["train", "test"] * 100),
        lambda artifacts: edit_index(artifacts, skipped=["cannot be decoded"] + [""] * 199),
    ],
)
def test_a_bundle_of_other_data_is_not_evaluated(artifacts, change):
    change(artifacts)
    folder = artifacts / "bundles" / "latest"
    with pytest.raises(UnusableBundle, match="have changed since it was tuned; run `make tune` again"):
        evaluate_bundle(folder, artifacts, lambda line: pytest.fail("looked at test"))
    assert not (folder / "metrics.json").exists()


def test_an_export_is_not_evaluated(artifacts):
    folder = artifacts / "bundles" / "latest"
    (folder / "predictions.json").unlink()
    with pytest.raises(UnusableBundle, match="exports leave it out, so give the bundle that the export was made from"):
        evaluate_bundle(folder, artifacts, lambda line: pytest.fail("looked at test"))
    assert not (folder / "metrics.json").exists()


def test_an_evaluation_interrupted_before_its_last_file_runs_again(artifacts, monkeypatch):
    folder = artifacts / "bundles" / "latest"
    written: list[str] = []

    def stopped(folder: Path, name: str, value: dict[str, Any]) -> None:
        if name == "metrics.json" and not written.count(name):
            written.append(name)
            raise KeyboardInterrupt
        written.append(name)
        (folder / name).write_text(json.dumps(value))

    monkeypatch.setattr(evaluate, "write_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_bundle(folder, artifacts, lambda line: None)
    evaluate_bundle(folder, artifacts, lambda line: None)
    assert part(folder, "metrics")["split"] == "test" and written.count("gallery.json") == 2


@pytest.fixture(scope="module")
def without_test(tmp_path_factory) -> Path:
    artifacts = tmp_path_factory.mktemp("without")
    write_features(artifacts, planted_features(120))
    tune(artifacts, "--protocol=official", "--ship=regression")
    return artifacts


def test_without_test_the_memes_tuned_on_are_described_again(without_test):
    folder = without_test / "bundles" / "latest"
    evaluate_bundle(folder, without_test, lambda line: pytest.fail("there is no test to look at"))
    config, metrics = part(folder, "config"), part(folder, "metrics")
    further = {"slices": metrics.pop("slices"), "learning": metrics.pop("learning")}
    assert metrics == config["tuning_metrics"] and metrics["split"] == "tuning"
    assert further["learning"]["method"] == config["reference"] and len(further["learning"]["curve"]) > 1
    assert all(meme["probability"] > 0 for meme in part(folder, "gallery")["suspects"])
    assert part(folder, "predictions").keys() == {"tuning"}
    validation = {f"m{row}" for row in range(2, 120, 3)}
    mistakes = part(folder, "gallery")["mistakes"]
    assert mistakes and {mistake["id"] for mistake in mistakes} <= validation
    assert all(mistake["id"] not in [near["id"] for near in mistake["neighbours"]] for mistake in mistakes)
    said = verdict(config, metrics)
    assert said.startswith("On validation") and "a little optimistic" in said and "tune-nested" in said


@pytest.mark.parametrize(
    "older", [lambda config: config.pop("reference"), lambda config: config["protocol"].update(folds=9)]
)
def test_a_bundle_of_older_methods_is_not_evaluated(older, artifacts):
    path = artifacts / "bundles" / "latest" / "config.json"
    config = json.loads(path.read_text())
    older(config)  # no reference; heads of another number of members than the folds have
    path.write_text(json.dumps(config))
    with pytest.raises(UnusableBundle, match="tuned by an older version.*run `make tune` again"):
        evaluate_bundle(artifacts / "bundles" / "latest", artifacts, lambda line: pytest.fail("looked at test"))


def test_a_bundle_that_ships_the_regression_answers_with_it(without_test):
    folder = without_test / "bundles" / "latest"
    bundle = load_bundle(folder)
    index = read_index(next((without_test / "datasets").iterdir()))
    tuning = load_tuning(index, without_test / "vectors", True, 0)
    assert bundle.config["shipped"] == BOTH and {ENSEMBLE, BOTH} <= bundle.ensembles.keys()
    assert bundle.config["threshold"] == bundle.config["methods"][BOTH]["threshold"]
    held = np.flatnonzero(tuning.split == "validation")
    ours = bundle.calibration(bundle.shipped.score(tuning.at(held)))
    # cross-fitted: by others than those that answer, but like them
    told = np.array(part(folder, "predictions")["tuning"]["probability"][BOTH])
    assert np.corrcoef(ours, told)[0, 1] > 0.8 and np.abs(ours - told).max() > 1e-3


def config_of(shipped: str = ENSEMBLE, protocol: str = "kfold") -> dict[str, Any]:
    return {"shipped": shipped, "protocol": {"name": protocol}}


def judged_by(methods: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `describe` reads of a config, for the methods' probabilities."""
    plain = {name: {"threshold": 0.5, "settings": {}} for name in methods}
    return {**config_of(), "reference": BOTH, "methods": plain, "seed": 0, "review": None}


def metrics_of(split: str, ours: tuple, p: float | None = None, peer: float = 0.7) -> dict[str, Any]:
    figures = {ENSEMBLE: Estimate(*ours), BOTH: Estimate(peer, peer - 0.1, peer + 0.1)}
    if ours[0] is None:
        figures[BOTH] = Estimate(None, None, None)
    methods = {name: {"figures": {"auroc": one.plain()}} for name, one in figures.items()}
    return {"split": split, "reference": BOTH, "methods": methods, "p": p}


@pytest.mark.parametrize(
    ("ours", "p", "words"),
    [
        (
            (0.8, 0.7, 0.9),
            0.01,
            "better than guessing, and better than the best simple method (difference +0.100, p 0.010)",
        ),
        ((0.8, 0.7, 0.9), 0.05, "better than guessing, and not distinguishable from the best simple method"),
        ((0.8, 0.7, 0.9), None, "not distinguishable from the best simple method (no p)"),
        ((0.65, 0.6, 0.7), 0.01, "worse than the best simple method, which is the simpler choice"),
        ((0.55, 0.45, 0.65), 0.01, "The interval contains 0.5: no better than guessing here"),
        ((0.3, 0.2, 0.4), 0.01, "in reverse: worse than guessing here"),
        ((None, None, None), None, "AUROC is undefined and nothing is compared"),
    ],
)
def test_the_verdict_says_what_the_interval_and_p_say(ours, p, words):
    for split, where in (("test", "On test"), ("nested", "In nested cross-validation")):
        said = verdict(config_of(), metrics_of(split, ours, p))
        assert words in said and said.startswith(where) and "optimistic" not in said
        assert said.count("better than guessing") <= 1 and said.endswith(".")


def test_figures_of_the_memes_tuned_on_are_called_a_little_optimistic():
    for protocol, where in (("kfold", "Out of fold"), ("official", "On validation")):
        said = verdict(config_of(protocol=protocol), metrics_of("tuning", (0.8, 0.7, 0.9), 0.001))
        assert said.startswith(where) and "a little optimistic. `make tune-nested`" in said
        assert "better than the best simple method" in said


def test_accuracy_stands_beside_that_of_the_majority_class():
    metrics = metrics_of("test", (0.8, 0.7, 0.9), 0.01)
    for name, accuracy in ((ENSEMBLE, Estimate(0.7, 0.6, 0.8)), (MAJORITY, Estimate(0.61, 0.5, 0.7))):
        figures = metrics["methods"].setdefault(name, {"figures": {"auroc": Estimate(0.5, 0.5, 0.5).plain()}})[
            "figures"
        ]
        figures["accuracy"] = accuracy.plain()
    said = verdict(config_of(), metrics)
    assert said.endswith(" Its accuracy is 0.700 [0.600, 0.800]; one answer for all memes reaches 0.610.")


def test_an_older_bundle_has_its_p_beside_the_figure():
    metrics = metrics_of("test", (0.8, 0.7, 0.9))
    del metrics["p"]
    metrics["methods"][ENSEMBLE]["figures"]["auroc"]["p"] = 0.01
    assert stated_p(ENSEMBLE, metrics) == 0.01 and "p 0.010" in verdict(config_of(), metrics)


def finetuned_metrics(split: str, before: tuple, p: float | None) -> dict[str, Any]:
    metrics = metrics_of(split, (0.8, 0.7, 0.9), 0.01)
    methods = metrics["methods"]
    methods[FINETUNED] = methods.pop(ENSEMBLE)
    methods[FROZEN] = {"figures": {"auroc": Estimate(*before).plain()}}
    return {**metrics, "frozen": {"reference": FROZEN, "p": p}}


@pytest.mark.parametrize(
    ("before", "p", "words"),
    [
        ((0.7, 0.6, 0.8), 0.01, "has 0.700 [0.600, 0.800]: the fine-tuned model is better than the frozen head"),
        ((0.79, 0.7, 0.9), 0.4, "is not distinguishable from the frozen head (difference +0.010, p 0.400)"),
        ((0.9, 0.8, 0.95), 0.01, "is worse than the frozen head, which is the simpler choice"),
    ],
)
def test_the_verdict_says_what_fine_tuning_was_worth(before, p, words):
    said = verdict(config_of(FINETUNED), finetuned_metrics("test", before, p))
    assert said.startswith("On test, the fine-tuned model has an AUROC of 0.800") and words in said
    assert "the best simple method (logistic regression, both) on the frozen encoder's vectors" in said


def test_the_frozen_head_is_the_reference_of_a_p_of_its_own():
    planted, generator = planted_features(60), np.random.default_rng(0)
    probability = {name: generator.random(60) for name in (FINETUNED, FROZEN, BOTH)}
    config = {**judged_by(probability), "shipped": FINETUNED}
    described = describe("test", planted, probability, config, np.zeros(60, bool))
    for reference, p in ((FROZEN, described["frozen"]["p"]), (BOTH, described["p"])):
        found = auroc_difference(planted.label, probability[FINETUNED], probability[reference], planted.copies)
        assert p == found.p
    del probability[FROZEN]
    assert "frozen" not in describe("test", planted, probability, config, np.zeros(60, bool))
    assert describe("test", planted, probability, {**config, "shipped": BOTH}, np.zeros(60, bool))["p"] is None


def test_the_regression_is_not_compared_with_itself():
    said = verdict(config_of(BOTH), metrics_of("test", (0.8, 0.7, 0.9), 0.01, peer=0.75))
    assert (
        said
        == "On test, the logistic regression, both has an AUROC of 0.750 [0.650, 0.850]. It is better than guessing."
    )


def test_shuffled_labels_give_no_significant_win():
    """Two rankings without any worth, on 100 memes, 40 times: a win needs an interval above 0.5 and p < 0.05."""
    wins = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        planted = replace(planted_features(100, seed, "none"), label=generator.permutation([0, 1] * 50))
        probability = {ENSEMBLE: generator.random(100), BOTH: generator.random(100)}
        described = describe("test", planted, probability, judged_by(probability), np.zeros(100, bool))
        said = verdict(config_of(), described)
        wins += "better than the best simple method" in said
    assert wins <= 2


def test_a_share_in_a_group_has_wilsons_interval():
    planted = replace(planted_features(40), subgroup=np.array(["women", "men"] * 20), label=np.array([0, 0, 1, 1] * 10))
    probability = {ENSEMBLE: np.tile([0.9, 0.1, 0.9, 0.1], 10), BOTH: np.full(40, 0.5)}
    men, women = describe("test", planted, probability, judged_by(probability), np.zeros(40, bool))["subgroups"]
    assert (women["false_positive_rate"]["point"], men["false_positive_rate"]["point"]) == (1.0, 0.0)
    assert (women["false_negative_rate"]["point"], men["false_negative_rate"]["point"]) == (0.0, 1.0)
    assert women["false_positive_rate"] == share(np.ones(10, bool)).plain()


def test_without_groups_there_are_no_group_rates_and_without_a_band_no_review():
    planted = planted_features(40)
    probability = {ENSEMBLE: np.linspace(0.1, 0.9, 40), BOTH: np.full(40, 0.5)}
    described = describe("test", planted, probability, judged_by(probability), np.ones(40, bool))
    assert described["subgroups"] == [] and described["review"] is None
    assert described["copies"] == {"memes": 40, "auroc_without": {"point": None, "interval": None}}
