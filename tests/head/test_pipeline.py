from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import planted_features, write_features
from quick import quick_tuning
from sklearn.metrics import roc_auc_score

from cache import read_index
from head import fitting, pipeline
from head.candidates.table import BOTH, CANDIDATES
from head.data.features import Features, load_tuning
from head.data.folds import Protocol, members, parts
from head.fitting import ENSEMBLE, SINGLE, Fitted, fit_all
from head.judge.threshold import Aim, choose_threshold
from head.model.method import MAJORITY, Method
from head.model.training import Diverged, train_head
from head.pipeline import TuneConfig, Tuned, study_digest, tune
from head.search import space
from head.search.study import StudyConfig, StudyResult

NEIGHBOURS, ZERO_SHOT = "nearest neighbours, both", "zero-shot prompts"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch, (8, 16))
        yield


def settings(folder: Path, trials: int = 2, protocol: Protocol | None = None, **more) -> TuneConfig:
    study = StudyConfig(f"sqlite:///{folder / 'studies.sqlite3'}", more.pop("study", "memes"), trials)
    return TuneConfig(study, protocol or Protocol("kfold", 2), more.pop("aim", Aim()), **more)


@pytest.fixture(scope="module")
def features() -> Features:
    return planted_features(120)


@pytest.fixture(scope="module")
def tuned(features, tmp_path_factory) -> Tuned:
    return tune(features, "digest", {}, settings(tmp_path_factory.mktemp("study"), trials=4))


def auroc(tuned: Tuned, label: np.ndarray, method: str) -> float:
    return roc_auc_score(label, tuned.methods[method].out_of_fold)


def test_every_method_is_judged_by_memes_that_its_members_had_not_seen(features, tuned):
    assert list(tuned.methods)[:3] == [ENSEMBLE, SINGLE, BOTH] and ZERO_SHOT not in tuned.methods
    assert list(tuned.methods)[-1] == MAJORITY
    for judged in tuned.methods.values():
        chances = judged.out_of_fold
        assert chances.shape == (120,) and np.all((chances > 0) & (chances < 1))
        assert judged.threshold == choose_threshold(features.label, chances, Aim())
        assert judged.probability(features.at(np.arange(5))).shape == (5,)
    assert tuned.folds.shape == (1, 120) and len(members(tuned.folds)) == 2


def test_the_ensemble_is_of_the_best_trials_and_the_single_head_is_the_best(tuned):
    best = tuned.study.best(10)
    assert tuned.methods[SINGLE].method.settings == {"trial": best[0].number}
    known = {f"trial {trial.number}": trial for trial in best}
    for pick in tuned.picks:
        assert pick.picked >= 1 and pick.trial == known.get(pick.name) and (pick.trial or pick.name in CANDIDATES)
    assert tuned.methods[ENSEMBLE].method.settings == {"heads": len(tuned.picks)}
    assert tuned.reference in CANDIDATES and tuned.best in (ENSEMBLE, tuned.reference)


def test_scores_of_a_part_come_from_what_was_fitted_and_chosen_without_it(features, tuned, tmp_path, monkeypatch):
    """Labels of a part that are turned change neither what is chosen without it, nor its scores, but for their scale."""
    fits: list[list[Fitted]] = []
    monkeypatch.setattr(pipeline, "fit_all", lambda *given: fits.append(fit_all(*given)) or fits[-1])
    monkeypatch.setattr(pipeline, "search", lambda *_: valued(tuned.study))
    again = tune(features, "digest", {}, settings(tmp_path))
    part = parts(features.label, features.copies, again.folds, 0)
    monkeypatch.setattr(pipeline, "assign_folds", lambda *_: again.folds)
    turned = replace(features, label=np.where(part == 1, 1 - features.label, features.label))
    tune(turned, "digest", {}, settings(tmp_path))
    (whole, first, second), (_, _, unaware) = fits
    assert second.picks == unaware.picks and second.reference == unaware.reference and second.methods == {}
    for name, judged in again.methods.items():
        assert (second.held_out[name] == unaware.held_out[name]).all()
        of = [fitted.reference if name == again.reference else name for fitted in (first, second)]
        for one, fitted, method in zip((0, 1), (first, second), of):
            expected = fitted.scales[method].convert(fitted.held_out[method], whole.scales[name])
            np.testing.assert_allclose(judged.method.out_of_fold[part == one], expected)


def valued(found: StudyResult) -> StudyResult:
    """Each trial is the best for someone: with all memes, without the first part, without the second."""
    values = ((0.9, 0.7, 0.6), (0.8, 0.8, 0.6), (0.7, 0.7, 0.7), (0.1, 0.1, 0.1))
    return replace(
        found, trials=[replace(t, complete=True, value=v, without=w) for t, (v, *w) in zip(found.trials, values)]
    )


def test_the_simple_method_ships_unless_the_ensemble_ranks_the_memes_better():
    rng = np.random.default_rng(0)
    features = planted_features(400)
    good, better = (features.label + noise * rng.normal(size=400) for noise in (1.0, 0.5))
    for ours, peer, shipped in ((better, good, ENSEMBLE), (good, better, BOTH), (good, 2 * good, BOTH)):
        methods = {
            name: Method(out, lambda memes: np.zeros(len(memes))) for name, out in ((ENSEMBLE, ours), (BOTH, peer))
        }
        assert pipeline._best(features, methods, BOTH) == shipped


def test_the_same_seed_gives_the_same_methods(features, tuned, tmp_path):
    again = tune(features, "digest", {}, settings(tmp_path, trials=4))
    for name, judged in tuned.methods.items():
        assert (again.methods[name].out_of_fold == judged.out_of_fold).all()
        assert again.methods[name].threshold == judged.threshold


def test_in_the_official_protocol_validation_judges_what_train_has_taught(features, tmp_path):
    tuned = tune(features, "digest", {}, settings(tmp_path, protocol=Protocol("official", repeats=2)))
    held = features.split == "validation"
    assert (tuned.folds == np.where(held, 0, -1)).all() and tuned.folds.shape == (2, 120)
    for judged in tuned.methods.values():
        assert (np.isfinite(judged.out_of_fold) == held).all()


def test_prompts_add_a_zero_shot_answer_where_pictures_and_texts_share_a_space(tmp_path):
    memes = planted_features(60, dims=(6, 6))
    prompts = {"offensive": np.eye(6, dtype=np.float32)[:1], "non-offensive": -np.eye(6, dtype=np.float32)[:1]}
    tuned = tune(memes, "digest", prompts, settings(tmp_path))
    assert auroc(tuned, memes.label, ZERO_SHOT) > 0.8  # the first number carries the label


def test_the_aim_is_that_of_every_threshold(features, tmp_path):
    tuned = tune(features, "digest", {}, settings(tmp_path, aim=Aim("recall", 0.95)))
    for judged in tuned.methods.values():
        called = judged.out_of_fold >= judged.threshold
        assert called[features.label == 1].mean() >= 0.95


def test_it_refuses_to_be_shown_test_memes(features, tmp_path):
    shown = replace(features, split=np.where(np.arange(120) < 5, "test", features.split))
    with pytest.raises(ValueError, match="must not see test"):
        tune(shown, "digest", {}, settings(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_leak_planted_through_near_duplicates_is_caught_by_grouping(tmp_path, monkeypatch):
    """Noise and random labels, each meme there twice and nearly alike: who may look at the copy knows the label."""
    recipes = space.Space.recipes
    quick = {"width": 128, "learning_rate_position": 1.0}  # heads that can learn by heart in thirty epochs
    monkeypatch.setattr(space, "_WIDTHS", (128,))
    monkeypatch.setattr(
        space.Space, "recipes", lambda of: {name: {**recipe, **quick} for name, recipe in recipes(of).items()}
    )
    memes, first = planted_features(160, kind="none", dims=(32, 32), splits=("train",)), np.arange(160) // 2 * 2
    noise = np.random.default_rng(1).normal(scale=0.02, size=(2, 160, 32)).astype(np.float32)
    doubled = replace(
        memes, image=memes.image[first] + noise[0], text=memes.text[first] + noise[1], label=memes.label[first]
    )
    index = read_index(write_features(tmp_path, replace(doubled, split=np.array(["train", "validation"] * 80))))
    loaded = load_tuning(index, tmp_path / "vectors", official=False, seed=0)
    assert (loaded.copies == first).all()  # the copies were found

    leaking = replace(loaded, copies=np.arange(160))
    told, kept = (
        tune(given, name, {}, settings(tmp_path, trials=3, study=name, protocol=Protocol("kfold", 3)))
        for name, given in (("leaking", leaking), ("grouped", loaded))
    )
    for method in (NEIGHBOURS, BOTH, ENSEMBLE):
        assert auroc(told, loaded.label, method) > 0.65
        assert abs(auroc(kept, loaded.label, method) - 0.5) < 0.15  # 80 independent memes


def test_heads_that_do_not_converge_again_are_left_out_and_without_any_it_says_so(features, tmp_path, monkeypatch):
    calls: list[int] = []

    def diverging(*arguments):
        calls.append(1)
        if len(calls) in lost:
            raise Diverged("never a finite number")
        return train_head(*arguments)

    monkeypatch.setattr(fitting, "train_head", diverging)
    lost = {1}  # the first of the best
    tuned = tune(features, "digest", {}, settings(tmp_path, trials=3))
    assert tuned.methods[SINGLE].method.settings["trial"] == tuned.study.best(2)[1].number
    lost = set(range(99))
    with pytest.raises(ValueError, match="none of the best trials converged when it was trained again; add trials"):
        tune(features, "digest", {}, settings(tmp_path, trials=3))


def test_trials_are_of_one_study_for_equal_memes_folds_and_seed():
    first = study_digest("digest", Protocol(), 0)
    others = {study_digest("other", Protocol(), 0), study_digest("digest", Protocol(), 1)}
    others |= {study_digest("digest", Protocol("kfold", 4), 0), study_digest("digest", Protocol("official"), 0)}
    assert first == study_digest("digest", Protocol(), 0) and first not in others and len(others) == 4


def test_no_job_is_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        settings(tmp_path, jobs=0)
