from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import SPEC, interrupted, planted_features
from quick import quick_tuning
from sklearn.metrics import roc_auc_score

from head import nested as nesting
from head.bundle.evaluation import describe
from head.candidates.table import BOTH
from head.data.features import Features
from head.data.folds import Protocol
from head.fitting import ENSEMBLE
from head.judge.threshold import Aim
from head.judge.verdict import verdict
from head.model.training import train_head
from head.nested import nested
from head.pipeline import TuneConfig, tune
from head.search import workers
from head.search.study import StudyConfig, finished_trials


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_tuning(monkeypatch)
    monkeypatch.setattr(nesting, "_OUTER_FOLDS", 2)


def settings(folder: Path) -> TuneConfig:
    study = StudyConfig(f"sqlite:///{folder / 'studies.sqlite3'}", "memes", trials=2)
    return TuneConfig(study, Protocol("kfold", 2), Aim())


@pytest.fixture
def judged(monkeypatch) -> list[dict[str, np.ndarray]]:
    """The probabilities of all memes, of each run."""
    kept: list[dict[str, np.ndarray]] = []

    def keeping(split: str, memes: Features, probability: dict[str, np.ndarray], *more: Any) -> dict[str, Any]:
        kept.append(probability)
        return describe(split, memes, probability, *more)

    monkeypatch.setattr(nesting, "describe", keeping)
    return kept


@pytest.fixture
def tuned_on(monkeypatch) -> list[set[str]]:
    """The ids of the memes that each procedure was shown."""
    shown: list[set[str]] = []

    def watched(inside: Features, *more: Any) -> Any:
        shown.append(set(inside.ids.tolist()))
        return tune(inside, *more)

    monkeypatch.setattr(nesting, "tune", watched)
    return shown


def memes() -> Features:
    planted, pair = planted_features(90), np.arange(90) // 2 * 2
    return replace(planted, copies=pair)


def test_every_meme_is_judged_once_by_a_procedure_that_saw_neither_it_nor_its_copies(tmp_path, judged, tuned_on):
    planted, said = memes(), []
    found = nested(planted, SPEC, {}, settings(tmp_path), said.append)
    held = [set(planted.ids.tolist()) - shown for shown in tuned_on]
    assert sorted(name for fold in held for name in fold) == sorted(planted.ids.tolist())
    assert all(len({int(name[1:]) // 2 for name in fold}) == len(fold) / 2 for fold in held)
    assert said[0] == f"outer fold 1 of 2: {90 - len(held[0])} memes to tune on, {len(held[0])} held out"
    for name, method in found["methods"].items():
        assert method["figures"]["auroc"]["point"] == pytest.approx(roc_auc_score(planted.label, judged[0][name]))
        for fold, rows in zip(found["folds"], held):
            there = np.isin(planted.ids, list(rows))
            assert fold["memes"] == there.sum()
            expected = roc_auc_score(planted.label[there], judged[0][name][there])
            assert fold["auroc"][name] == pytest.approx(expected)
    assert (found["split"], found["trials"]) == ("nested", 2)
    assert all(0 <= method["threshold"] <= 1 for method in found["methods"].values())
    said_of_it = verdict({"shipped": ENSEMBLE}, found)
    assert said_of_it.startswith("In nested cross-validation, the fusion ensemble has an AUROC of ")


def test_a_meme_that_is_held_out_has_no_part_in_what_judges_its_fold(tmp_path, judged, tuned_on):
    planted = replace(memes(), copies=np.arange(90))
    image = planted.image.copy()
    image[0] = 1e6 * image[1]  # the same folds, and another meme for whoever is tuned on it
    for name, given in (("plain", planted), ("poisoned", replace(planted, image=image))):
        nested(given, SPEC, {}, replace_study(settings(tmp_path), name), lambda line: None)
    with_it = np.array([planted.ids[0] in shown for shown in tuned_on[:2]])
    beside = np.isin(planted.ids, list(set(planted.ids.tolist()) - tuned_on[int(np.argmin(with_it))]))
    others = np.arange(90) > 0
    for name in judged[0]:
        same = judged[0][name] == judged[1][name]
        assert same[beside & others].all()
    assert not (judged[0][BOTH] == judged[1][BOTH])[~beside].all()


def replace_study(config: TuneConfig, name: str) -> TuneConfig:
    return replace(config, study=replace(config.study, study=name))


def test_a_run_that_was_stopped_goes_on_where_it_stopped_whatever_the_data_say_of_splits(tmp_path, monkeypatch):
    config, planted = settings(tmp_path), memes()
    stopped, calls = interrupted(train_head, at=4)  # the second trial of the second fold
    with monkeypatch.context() as patch:
        patch.setattr(workers, "train_head", stopped)
        with pytest.raises(KeyboardInterrupt):
            nested(planted, SPEC, {}, config, lambda line: None)
    kept = [finished_trials(replace_study(config, f"memes-outer-{fold}").study) for fold in (1, 2)]
    assert kept == [2, 1]
    counted, calls = interrupted(train_head, at=0)
    monkeypatch.setattr(workers, "train_head", counted)
    found = nested(planted, SPEC, {}, config, lambda line: None)
    assert len(calls) == 1  # what was missing; the best are trained again by another
    other = replace(planted, split=np.full(90, "validation"))
    fresh = nested(other, SPEC, {}, replace_study(config, "fresh"), lambda line: None)
    assert found == fresh
