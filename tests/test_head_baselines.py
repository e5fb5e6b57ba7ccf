import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from fakes import planted_features
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits

from head import baselines as module
from head.baselines import BOTH, IMAGE, MAJORITY, NEIGHBOURS, TEXT, ZERO_SHOT, fit_baselines
from head.data.features import Features
from head.model.method import Method

SIDES = {BOTH: ("image", "text"), IMAGE: ("image",), TEXT: ("text",)}
PENALTIES = [10.0**power for power in np.arange(-5, 1.5, 0.5)]
# More memes than columns, and fewer.
WIDE, NARROW = planted_features(60, seed=3, dims=(40, 40)), planted_features(90, seed=1, dims=(8, 6))


def folds(features: Features, count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = np.arange(len(features))
    return [(np.flatnonzero(rows % count != fold), np.flatnonzero(rows % count == fold)) for fold in range(count)]


def fit(features: Features, prompts: dict[str, np.ndarray] | None = None, seed: int = 0) -> dict[str, Method]:
    return fit_baselines(features, folds(features), prompts or {}, seed)


fitted = cache(fit)  # methods are not changed by what they are asked


@pytest.fixture
def one_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of other methods, and of fits where there is nothing to choose."""
    monkeypatch.setattr(module, "_PENALTIES", np.array([0.01]))


def columns(features: Features, sides: tuple[str, ...], train: np.ndarray) -> np.ndarray:
    unit = [normalize(getattr(features, side).astype(np.float64)) for side in sides]
    return np.hstack([StandardScaler().fit(rows[train]).transform(rows) for rows in unit])


def regressed(features: Features, sides: tuple[str, ...], penalty: float) -> np.ndarray:
    """(M, N) decisions of scikit-learn's regressions, fitted directly on the columns."""
    decisions = []
    with threadpool_limits(1):
        for train, _ in folds(features):
            rows = columns(features, sides, train)
            model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-8)
            decisions.append(model.fit(rows[train], features.label[train]).decision_function(rows))
    return np.stack(decisions)


def mean_auroc(features: Features, scores: np.ndarray) -> float:
    held = [rows for _, rows in folds(features)]
    return float(np.mean([roc_auc_score(features.label[rows], one[rows]) for rows, one in zip(held, scores)]))


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("features", [WIDE, NARROW], ids=["fewer memes than columns", "more memes than columns"])
def test_logistic_regression_is_scikit_learns_with_the_best_penalty_of_the_sweep(features: Features, name: str) -> None:
    method = fitted(features)[name]
    figures = [mean_auroc(features, regressed(features, SIDES[name], penalty)) for penalty in PENALTIES]
    assert method.settings == {"C": pytest.approx(PENALTIES[int(np.argmax(figures))])}
    expected = regressed(features, SIDES[name], method.settings["C"])
    scale = max(1, np.abs(expected).max())
    for member, (_, held) in enumerate(folds(features)):
        np.testing.assert_allclose(method.out_of_fold[held], expected[member, held], atol=1e-3 * scale)
    np.testing.assert_allclose(method.score(features), expected.mean(axis=0), atol=1e-3 * scale)


@pytest.mark.parametrize("name", SIDES)
def test_a_regression_is_a_head_of_the_linear_kind_that_can_be_shipped(name: str) -> None:
    method, head = fitted(NARROW)[name], fitted(NARROW)[name].ensemble.heads[0]
    assert head.config.fusion == "linear" and head.members == 3 and method.ensemble.weights == (1.0,)
    assert (method.ensemble.score(NARROW) == method.score(NARROW)).all()
    weight = head.output.weight[:, :, 0]
    image, text = (bool(part.any()) for part in (weight[:, :8], weight[:, 8:]))
    assert (image, text) == ("image" in SIDES[name], "text" in SIDES[name])


def voted(features: Features, k: int) -> np.ndarray:
    """(M, N) logits of the vote of the k nearest, by loops over memes."""
    votes = np.empty((3, len(features)))
    for member, (train, _) in enumerate(folds(features)):
        sides = []
        for vectors in (features.image, features.text):
            unit = normalize(vectors.astype(np.float64))
            sides.append(normalize(unit - unit[train].mean(axis=0)))
        for meme in range(len(features)):
            near = sorted(train, key=lambda other: -sum(rows[meme] @ rows[other] for rows in sides))[:k]
            votes[member, meme] = logit((features.label[near].sum() + 0.5) / (len(near) + 1))
    return votes


def test_neighbours_vote_as_in_a_plain_loop_and_k_is_the_best_of_the_sweep() -> None:
    method = fitted(NARROW)[NEIGHBOURS]
    sweep = {k: voted(NARROW, k) for k in (1, 3, 5, 10, 20, 50, 100)}
    figures = {k: mean_auroc(NARROW, votes) for k, votes in sweep.items()}
    k = max(figures, key=figures.__getitem__)
    assert method.settings == {"k": k} and method.ensemble is None
    for member, (_, held) in enumerate(folds(NARROW)):
        np.testing.assert_allclose(method.out_of_fold[held], sweep[k][member, held], atol=1e-9)
    np.testing.assert_allclose(method.score(NARROW), sweep[k].mean(axis=0), atol=1e-9)


@pytest.mark.usefixtures("one_penalty")
@pytest.mark.parametrize("k", [1, 5, 100])
def test_neighbours_are_scikit_learns(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(module, "_VOTERS", (k,))
    found = fit(NARROW)[NEIGHBOURS].out_of_fold
    for train, held in folds(NARROW):
        units = [normalize(vectors) for vectors in (NARROW.image, NARROW.text)]
        rows = np.hstack([normalize(unit - unit[train].mean(axis=0)) for unit in units])
        most = min(k, len(train))
        peer = KNeighborsClassifier(most, metric="cosine").fit(rows[train], NARROW.label[train])
        share = peer.predict_proba(rows[held])[:, 1]
        np.testing.assert_allclose(found[held], logit((share * most + 0.5) / (most + 1)), atol=1e-9)


@pytest.mark.usefixtures("one_penalty")
@pytest.mark.parametrize("name", [BOTH, NEIGHBOURS])
def test_a_label_has_no_part_in_the_score_of_its_own_meme(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where there is nothing to choose, which the memes held out are for."""
    monkeypatch.setattr(module, "_VOTERS", (5,))
    label = NARROW.label.copy()
    label[4] = 1 - label[4]
    before, after = (fit(features)[name] for features in (NARROW, dataclasses.replace(NARROW, label=label)))
    assert before.out_of_fold[4] == after.out_of_fold[4]
    assert (before.out_of_fold != after.out_of_fold).any() and (before.score(NARROW) != after.score(NARROW)).any()


def prompts(dim: int, lengths: Any = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {label: (lengths * rng.normal(size=(3, dim))).astype(np.float32) for label in ("offensive", "non-offensive")}


@pytest.mark.usefixtures("one_penalty")
def test_zero_shot_is_how_much_nearer_a_meme_is_to_the_prompts_of_one_label() -> None:
    given = prompts(40, np.array([[0.1], [1.0], [10.0]]))  # each prompt counts as much, whatever its length
    method = fit(WIDE, given)[ZERO_SHOT]
    centres = {label: normalize(normalize(rows).mean(axis=0)[None])[0] for label, rows in given.items()}
    for meme in range(len(WIDE)):
        image, text = WIDE.image[meme], WIDE.text[meme]
        both = image / np.linalg.norm(image) + text / np.linalg.norm(text)
        both /= np.linalg.norm(both)
        expected = both @ centres["offensive"] - both @ centres["non-offensive"]
        assert method.score(WIDE)[meme] == pytest.approx(expected, abs=1e-6)
        assert method.out_of_fold[meme] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("one_penalty")
def test_zero_shot_learns_nothing_from_the_labels_and_is_no_worse_for_vectors_of_zeros() -> None:
    blank = dataclasses.replace(WIDE, label=1 - WIDE.label, text=np.zeros_like(WIDE.text))
    image_alone = dataclasses.replace(WIDE, text=np.zeros_like(WIDE.text))
    one, other = (fit(features, prompts(40))[ZERO_SHOT].score(features) for features in (blank, image_alone))
    assert (one == other).all() and np.isfinite(one).all() and np.std(one) > 0


@pytest.mark.usefixtures("one_penalty")
def test_there_is_no_zero_shot_without_prompts_or_a_space_for_both() -> None:
    assert list(fit(WIDE)) == [BOTH, IMAGE, TEXT, NEIGHBOURS, MAJORITY]
    assert list(fit(NARROW, prompts(6))) == [BOTH, IMAGE, TEXT, NEIGHBOURS, MAJORITY]
    assert list(fit(WIDE, prompts(40))) == [BOTH, IMAGE, TEXT, NEIGHBOURS, ZERO_SHOT, MAJORITY]


def test_the_majority_class_scores_every_meme_the_share_of_offensive_ones() -> None:
    method = fitted(NARROW)[MAJORITY]
    assert set(method.out_of_fold) == set(method.score(WIDE)) == {logit(NARROW.label.mean())}
    assert method.score(WIDE).shape == (60,)


@pytest.mark.usefixtures("one_penalty")
def test_memes_that_no_member_holds_out_have_no_score() -> None:
    train, held = np.arange(60), np.arange(60, 90)
    for method in fit_baselines(NARROW, [(train, held)] * 2, {}, 0).values():
        assert np.isnan(method.out_of_fold[:60]).all() and np.isfinite(method.out_of_fold[60:]).all()


def test_a_side_that_is_always_the_same_is_no_error_and_tells_nothing() -> None:
    same = dataclasses.replace(NARROW, text=np.tile(NARROW.text[:1], (90, 1)))
    methods = fit(same)
    for method in methods.values():
        assert np.isfinite(method.out_of_fold).all() and np.isfinite(method.score(NARROW)).all()
    assert np.ptp(methods[TEXT].score(same)) < 1e-4
    np.testing.assert_allclose(methods[BOTH].out_of_fold, methods[IMAGE].out_of_fold, atol=1e-3)


def test_large_sets_are_judged_on_a_sample_that_the_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_MEMES", 20)
    monkeypatch.setattr(module, "_PENALTIES", np.array([0.01, 0.1]))
    first, same, other = (fit(NARROW, seed=seed)[NEIGHBOURS].out_of_fold for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).any()
    found = fit(NARROW)[BOTH]
    expected = regressed(NARROW, SIDES[BOTH], found.settings["C"])  # the fit itself is on all of them
    np.testing.assert_allclose(found.score(NARROW), expected.mean(axis=0), atol=1e-3 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("kind", ["sum", "product"])
def test_regression_finds_a_sum_with_both_sides_and_part_of_it_with_one_but_no_product(kind: str) -> None:
    features = planted_features(400, kind=kind)
    reached = {name: roc_auc_score(features.label, method.out_of_fold) for name, method in fit(features).items()}
    if kind == "sum":
        assert reached[BOTH] > 0.85 > max(reached[IMAGE], reached[TEXT]) and min(reached[IMAGE], reached[TEXT]) > 0.6
    else:
        assert max(reached[name] for name in SIDES) < 0.6
    assert reached[MAJORITY] == 0.5
