from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import interrupted

from head import tune as tuning
from head.data import Features
from head.metrics import auroc
from head.train import predict, train_head
from head.tune import OtherData, TuneConfig, finished_trials, tune

SPEC = {"model": "fake"}


@pytest.fixture(autouse=True)
def small_heads(monkeypatch):
    """Narrow heads: the tests are about the search, not about what it finds."""
    monkeypatch.setattr(tuning, "_WIDTHS", (8, 16))


@pytest.fixture(scope="module")
def features() -> Features:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 120, 8)).astype(np.float32)
    label = (image[:, 0] + text[:, 0] + rng.normal(size=120) > 0).astype(np.int64)
    split = np.where(np.arange(120) < 80, "train", "validation")
    return Features(np.arange(120).astype(str), image, text, label, split)


@pytest.fixture
def config(tmp_path: Path) -> TuneConfig:
    return TuneConfig(tmp_path / "deep" / "studies.sqlite3", "memes", trials=3)


def test_the_best_trial_trained_again_has_its_value(features, config):
    tuned = tune(features, SPEC, config)
    validation = features.only("validation")
    assert auroc(validation.label, predict(train_head(tuned.head, tuned.train, features), validation)) == tuned.value
    assert tuned.value == max(run["value"] for run in tuned.history if run["state"] == "complete")
    assert (tuned.head.image_dim, tuned.head.text_dim) == (8, 8)


def test_the_published_recipes_come_first(features, config, monkeypatch):
    seen = []
    monkeypatch.setattr(tuning, "train_head", lambda *given: seen.append(given[:2]) or train_head(*given))
    tune(features, SPEC, replace(config, trials=2))
    assert [head.fusion for head, _ in seen] == ["align", "combiner"]
    for head, train in seen:
        assert (head.map_dropout, head.dropout, train.optimizer, train.batch_size) == (0.2, 0.4, "adamw", 32)
        assert train.learning_rate == pytest.approx(1e-4) and train.weight_decay == pytest.approx(1e-4)


def test_the_total_counts_earlier_runs_and_a_reached_total_trains_nothing(features, config, monkeypatch):
    tune(features, SPEC, config)
    again = tune(features, SPEC, replace(config, trials=5))
    assert len(again.history) == finished_trials(config) == 5
    monkeypatch.setattr(tuning, "train_head", lambda *_: pytest.fail("the total was reached"))
    assert tune(features, SPEC, replace(config, trials=5)) == again
    assert len(tune(features, SPEC, config).history) == 5


def test_a_continued_study_does_not_repeat_its_draws(features, config, monkeypatch):
    drawn = []
    monkeypatch.setattr(tuning, "train_head", lambda *given: drawn.append(given[:2]) or train_head(*given))
    tune(features, SPEC, replace(config, trials=4))
    tune(features, SPEC, replace(config, trials=6))
    rates = [train.weight_decay for _, train in drawn[2:]]
    assert len(set(rates)) == len(rates) == 4


def test_the_same_seed_searches_alike(features, config, tmp_path):
    other = replace(config, storage=tmp_path / "other.sqlite3")
    assert tune(features, SPEC, config) == tune(features, SPEC, other)


def test_stopping_keeps_the_finished_trials_and_the_next_run_goes_on(features, config, monkeypatch):
    stopped, _ = interrupted(train_head, at=3)
    monkeypatch.setattr(tuning, "train_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(features, SPEC, config)
    assert finished_trials(config) == 2
    assert len(tune(features, SPEC, config).history) == 3


def test_a_study_of_other_data_is_refused_and_says_what_to_do(features, config):
    tune(features, SPEC, replace(config, trials=1))
    other = replace(features, label=features.label[::-1].copy())
    for data, spec in ((other, SPEC), (features, {"model": "other"})):
        with pytest.raises(OtherData, match="'memes' .* another name with --study"):
            tune(data, spec, config)
    assert len(tune(other, SPEC, replace(config, study="second", trials=1)).history) == 1


def test_it_refuses_to_be_shown_test_memes(features, config):
    shown = replace(features, split=np.where(np.arange(120) < 5, "test", features.split))
    with pytest.raises(ValueError, match="must not see test"):
        tune(shown, SPEC, config)


def test_bad_trials_are_pruned_and_those_that_diverge_do_not_stop_the_search(features, config, monkeypatch):
    def scripted(head, train, data, on_epoch):
        calls.append(1)
        if len(calls) == 2:
            raise tuning.Diverged("never a finite number")
        for epoch in range(12):
            on_epoch(epoch, 0.7, 0.4 if len(calls) > 12 else 0.9)
        return train_head(head, replace(train, max_epochs=1), data)

    calls: list[int] = []
    monkeypatch.setattr(tuning, "train_head", scripted)
    history = tune(features, SPEC, replace(config, trials=13)).history
    assert [run["trial"] for run in history if run["state"] == "pruned"] == [1, 12]
    assert [run["value"] for run in history if run["state"] == "pruned"] == [None, 0.4]


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"study": ""}, {"seed": -1}])
def test_impossible_settings_are_refused_by_name(config, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(config, **wrong)
