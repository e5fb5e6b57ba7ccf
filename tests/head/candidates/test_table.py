from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from fakes import planted_features
from head_bundles import save_bundle
from scipy.special import logit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits

from head.bundle.format import load_bundle
from head.candidates import data as sampling
from head.candidates import neighbours, regression
from head.candidates.data import CandidateData
from head.candidates.table import BOTH, CANDIDATES, REFERENCES, fit_candidates, strongest
from head.data.features import Features
from head.model.fusion import FusionHead, HeadConfig
from head.model.inputs import BLOCKS
from head.model.kinds import differentiable
from head.model.method import MAJORITY, Method

PRODUCT, ALL, COSINE = "logistic regression, product", "logistic regression, all inputs", "cosine of the sides"
IMAGE, TEXT = "logistic regression, image only", "logistic regression, text only"
NEAR, NEAR_PRODUCT, TRAINED = ("nearest neighbours, both", "nearest neighbours, product", "nearest neighbours, trained")
FOREST, ZERO_SHOT = "random forest", "zero-shot prompts"
# More columns than memes, and fewer; of a shared space, and of two.
WIDE = replace(planted_features(60, seed=3, dims=(40, 40)), joint=40)
NARROW = planted_features(90, seed=1, dims=(8, 6))
POOLED = replace(planted_features(90, seed=1, dims=(9, 7)), joint=5)


def folds(features: Features, count: int = 3) -> list[tuple[np.ndarray, ...]]:
    rows = np.arange(len(features))
    return [(np.flatnonzero(rows % count != fold), np.flatnonzero(rows % count == fold)) for fold in range(count)]


def given(features: Features, seed: int = 0, **more: Any) -> CandidateData:
    return CandidateData(features, folds(features), seed, **more)


def trained(features: Features) -> dict[str, Any]:
    """A fusion head of as many members."""
    torch.manual_seed(0)
    dims = {"image_dim": features.image.shape[1], "text_dim": features.text.shape[1], "joint": features.joint}
    return {"trained": FusionHead(HeadConfig(**dims, components=0, width=8, hidden=8), 3).eval()}


@cache
def fitted(which: str) -> dict[str, Method]:
    features = {"wide": WIDE, "narrow": NARROW, "pooled": POOLED}[which]
    prompts = {
        label: np.eye(40, dtype=np.float32)[row : row + 2] for row, label in ((0, "offensive"), (2, "non-offensive"))
    }
    return fit_candidates(given(features, prompts=prompts if which == "wide" else {}, **trained(features)))


def columns(features: Features, blocks: dict[str, float], train: np.ndarray, centred: bool) -> np.ndarray:
    """Weighted blocks by scikit-learn's means, written anew."""
    joint, sides = features.joint, {}
    for name, vectors in (("image", features.image), ("text", features.text)):
        own = vectors.shape[1] - joint or vectors.shape[1]
        for part, values in ((name, vectors[:, :own]), (f"joint {name}", vectors[:, -joint:] if joint else vectors)):
            unit = normalize(values.astype(np.float64))
            sides[part] = normalize(unit - unit[train].mean(axis=0)) if centred else unit
    made = {"image": sides["image"], "text": sides["text"]}
    if joint:
        one, other = sides["joint image"], sides["joint text"]
        made |= {"product": one * other, "difference": abs(one - other), "cosine": (one * other).sum(axis=1)[:, None]}
    scaled = [
        weight * StandardScaler().fit(made[block][train]).transform(made[block]) for block, weight in blocks.items()
    ]
    rows = np.hstack(scaled)
    return rows / np.sqrt((rows[train] ** 2).sum() / len(train))


@pytest.mark.parametrize("which", ["wide", "narrow", "pooled"])
@pytest.mark.parametrize("name", [BOTH, IMAGE, TEXT, COSINE, PRODUCT, ALL])
def test_a_regression_is_scikit_learns_on_weighted_blocks(which: str, name: str) -> None:
    features = {"wide": WIDE, "narrow": NARROW, "pooled": POOLED}[which]
    blocks = CANDIDATES[name].keywords["blocks"]  # type: ignore[attr-defined]
    if which == "narrow" and name in (COSINE, PRODUCT, ALL):
        assert name not in fitted(which)
        return
    method = fitted(which)[name]
    weights = method.settings.get("weights") or {blocks[0]: 1.0}
    assert tuple(weights) == blocks
    scores = []
    for train, held in folds(features):
        rows = columns(features, weights, train, method.settings.get("centred", False))
        with threadpool_limits(1):
            peer = LogisticRegression(C=method.settings["C"], solver="newton-cholesky", tol=1e-8)
            scores.append(peer.fit(rows[train], features.label[train]).decision_function(rows))
        scale = max(1.0, np.abs(scores[-1]).max())
        np.testing.assert_allclose(method.out_of_fold[held], scores[-1][held], atol=5e-3 * scale)
    np.testing.assert_allclose(method.score(features), np.mean(scores, axis=0), atol=5e-3 * scale)


def test_each_block_has_a_weight_of_its_own_and_a_noisy_side_a_small_one() -> None:
    rng = np.random.default_rng(0)
    noisy = replace(NARROW, text=rng.normal(size=(90, 200)).astype(np.float32), joint=0)
    weights = fit_candidates(given(noisy))[BOTH].settings["weights"]
    assert weights["image"] > weights["text"]


def test_the_cosine_finds_agreement_where_both_sides_together_do_not() -> None:
    """Label 1: picture and text are of one meme. Real CLIP vectors: the same, see bench/RESULTS.md."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(240, 32))
    label = np.arange(240) % 2
    image = np.where(label[:, None] == 1, text, rng.normal(size=(240, 32))) + 0.5 * rng.normal(size=(240, 32)) + 3.0
    together = planted_features(240, dims=(32, 32))
    features = replace(
        together, image=image.astype(np.float32), text=(text - 2).astype(np.float32), label=label, joint=32
    )
    found = {name: roc_auc_score(label, method.out_of_fold) for name, method in fit_candidates(given(features)).items()}
    assert min(found[COSINE], found[ALL], found[FOREST]) > 0.95 and found[PRODUCT] > 0.85 and found[BOTH] < 0.7
    assert strongest(label, fit_candidates(given(features))) in (COSINE, ALL, PRODUCT, FOREST, NEAR_PRODUCT)


def voted(features: Features, k: int) -> np.ndarray:
    """(M, N) logits of the vote of the k nearest, by scikit-learn."""
    votes = []
    for train, _ in folds(features):
        units = [normalize(vectors.astype(np.float64)) for vectors in (features.image, features.text)]
        rows = np.hstack([normalize(unit - unit[train].mean(axis=0)) for unit in units])
        peer = KNeighborsClassifier(k, metric="cosine").fit(rows[train], features.label[train])
        votes.append(logit((peer.predict_proba(rows)[:, 1] * k + 0.5) / (k + 1)))
    return np.stack(votes)


def test_neighbours_vote_as_scikit_learns_and_k_is_the_best_of_the_sweep() -> None:
    method = fitted("narrow")[NEAR]
    sweep = {k: voted(NARROW, k) for k in (1, 3, 5, 10, 20, 50)}
    held = [rows for _, rows in folds(NARROW)]
    figures = {
        k: np.mean([roc_auc_score(NARROW.label[rows], one[rows]) for rows, one in zip(held, votes)])
        for k, votes in sweep.items()
    }
    k = method.settings["k"]
    assert figures[k] == pytest.approx(max(figures.values()))
    for member, rows in enumerate(held):
        np.testing.assert_allclose(method.out_of_fold[rows], sweep[k][member, rows], atol=1e-5)
    np.testing.assert_allclose(method.score(NARROW), sweep[k].mean(axis=0), atol=1e-5)


def test_trained_neighbours_are_looked_for_where_the_fusion_head_puts_the_memes() -> None:
    more = trained(NARROW)
    method = neighbours.fit_trained_neighbours(given(NARROW, **more))
    assert method is not None
    k = method.settings["k"]
    with torch.no_grad():
        space = more["trained"].embed_vectors(torch.from_numpy(NARROW.image), torch.from_numpy(NARROW.text)).numpy()
    for member, (train, held) in enumerate(folds(NARROW)):
        peer = KNeighborsClassifier(k, metric="cosine").fit(space[member][train], NARROW.label[train])
        share = peer.predict_proba(space[member][held])[:, 1]
        np.testing.assert_allclose(method.out_of_fold[held], logit((share * k + 0.5) / (k + 1)), atol=1e-5)
    assert neighbours.fit_trained_neighbours(given(NARROW)) is None


@pytest.mark.parametrize("features", [WIDE, NARROW, POOLED], ids=["wide", "narrow", "pooled"])
def test_the_forest_is_scikit_learns(features: Features) -> None:
    method = CANDIDATES[FOREST](given(features))
    assert method is not None and method.ensemble is not None
    head = method.ensemble.heads[0]
    image, text = torch.from_numpy(features.image), torch.from_numpy(features.text)
    for member, (train, held) in enumerate(folds(features)):
        rows = head.inputs.of_member(image, text, member).numpy()  # type: ignore[union-attr,operator]
        peer = RandomForestClassifier(100, random_state=0).fit(rows[train], features.label[train])
        share = peer.predict_proba(rows[held])[:, 1]
        np.testing.assert_allclose(method.out_of_fold[held], logit((share * 100 + 0.5) / 101), atol=1e-5)


@pytest.mark.parametrize("name", [BOTH, NEAR, FOREST])
def test_a_label_has_no_part_in_the_score_of_its_own_meme(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where there is nothing to choose, which the memes held out are for."""
    monkeypatch.setattr(neighbours, "_VOTERS", (5,))
    monkeypatch.setattr(regression, "_PENALTIES", np.array([1.0]))
    monkeypatch.setattr(regression, "_WEIGHTS", ())
    label = NARROW.label.copy()
    label[4] = 1 - label[4]
    before, after = (CANDIDATES[name](given(features)) for features in (NARROW, replace(NARROW, label=label)))
    assert before is not None and after is not None
    assert before.out_of_fold[4] == after.out_of_fold[4] and (before.out_of_fold != after.out_of_fold).any()


@pytest.mark.parametrize("which", ["wide", "narrow", "pooled"])
def test_every_candidate_comes_back_from_a_bundle_and_answers_as_it_did(which: str, tmp_path: Any) -> None:
    features = {"wide": WIDE, "narrow": NARROW, "pooled": POOLED}[which]
    methods = {name: method for name, method in fitted(which).items() if method.ensemble is not None}
    assert methods.keys() == fitted(which).keys() - REFERENCES.keys()
    settings = {
        "name": "memes",
        "shipped": BOTH,
        "encoder": {"model": "m", "pretrained": ""},
        "spec": {},
        "calibration": {"kind": "temperature", "slope": 1.0, "offset": 0.0},
        "threshold": 0.5,
        "review": None,
    }
    ensembles = {name: method.ensemble for name, method in methods.items() if method.ensemble is not None}
    save_bundle(tmp_path / "bundle", ensembles, settings, {})
    again = load_bundle(tmp_path / "bundle").ensembles
    assert list(again) == list(methods)
    for name, method in methods.items():
        assert (again[name].score(features) == method.score(features)).all(), name
        one = np.concatenate([again[name].score(features.at(np.array([row]))) for row in range(9)])
        np.testing.assert_allclose(one, method.score(features)[:9], atol=1e-5, err_msg=name)
        assert differentiable(again[name].heads[0]) == (name not in (NEAR, NEAR_PRODUCT, TRAINED, FOREST))


def test_which_candidates_there_are_follows_from_the_space_that_the_sides_share() -> None:
    everywhere = [BOTH, IMAGE, TEXT, "linear probe, unstandardised", NEAR, TRAINED, FOREST, MAJORITY]
    assert list(fitted("narrow")) == everywhere
    shared = {COSINE, PRODUCT, ALL, NEAR_PRODUCT}
    assert fitted("pooled").keys() == {*everywhere} | shared
    assert fitted("wide").keys() == {*everywhere} | shared | {ZERO_SHOT}
    assert CANDIDATES[ALL].keywords["blocks"] == BLOCKS  # type: ignore[attr-defined]


def prompts(dim: int, lengths: Any = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {label: (lengths * rng.normal(size=(3, dim))).astype(np.float32) for label in ("offensive", "non-offensive")}


def test_zero_shot_is_how_much_nearer_a_meme_is_to_the_prompts_of_one_label() -> None:
    told = prompts(40, np.array([[0.1], [1.0], [10.0]]))  # each prompt counts as much, whatever its length
    method = REFERENCES[ZERO_SHOT](given(WIDE, prompts=told))
    assert method is not None
    centres = {label: normalize(normalize(rows).mean(axis=0)[None])[0] for label, rows in told.items()}
    both = normalize(normalize(WIDE.image) + normalize(WIDE.text))
    expected = both @ centres["offensive"] - both @ centres["non-offensive"]
    np.testing.assert_allclose(method.score(WIDE), expected, atol=1e-6)
    np.testing.assert_allclose(method.out_of_fold, expected, atol=1e-6)


def test_zero_shot_learns_nothing_from_the_labels_and_is_no_worse_for_vectors_of_zeros() -> None:
    blank = replace(WIDE, text=np.zeros_like(WIDE.text))
    one, other = (
        REFERENCES[ZERO_SHOT](given(features, prompts=prompts(40)))
        for features in (blank, replace(blank, label=1 - WIDE.label))
    )
    assert one is not None and other is not None
    scores = one.score(blank)
    assert (scores == other.score(blank)).all() and np.isfinite(scores).all() and np.std(scores) > 0


def test_the_majority_class_scores_every_meme_the_share_of_offensive_ones() -> None:
    method = fitted("narrow")[MAJORITY]
    assert set(method.out_of_fold) == set(method.score(WIDE)) == {float(logit(NARROW.label.mean()))}


def test_memes_that_no_member_holds_out_have_no_score() -> None:
    train, held = np.arange(60), np.arange(60, 90)
    for method in fit_candidates(CandidateData(NARROW, [(train, held)] * 2, 0)).values():
        assert np.isnan(method.out_of_fold[:60]).all() and np.isfinite(method.out_of_fold[60:]).all()


def test_a_side_that_is_always_the_same_is_no_error_and_tells_nothing() -> None:
    same = replace(WIDE, text=np.tile(WIDE.text[:1], (60, 1)))
    methods = fit_candidates(given(same))
    for method in methods.values():
        assert np.isfinite(method.out_of_fold).all() and np.isfinite(method.score(same)).all()
    assert np.ptp(methods[TEXT].score(same)) < 1e-4
    np.testing.assert_allclose(methods[BOTH].out_of_fold, methods[IMAGE].out_of_fold, atol=1e-2)


def test_large_sets_are_compared_and_fitted_on_a_sample_that_the_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("_MOST_MEMES", 40), ("_COMPARED_MEMES", 20), ("_ROWS", 25)):
        monkeypatch.setattr(sampling, name, most)
    monkeypatch.setattr(neighbours, "_MOST_KNOWN", 30)
    large = given(NARROW)
    assert [len(rows) for rows in large.train_rows()] == [40] * 3
    assert [len(rows) for rows, _ in large.compared()] == [20] * 2
    for name in (BOTH, NEAR, FOREST):
        first, same, other = (CANDIDATES[name](given(NARROW, seed)) for seed in (0, 0, 1))
        assert first is not None and same is not None and other is not None
        assert (first.out_of_fold == same.out_of_fold).all() and (first.out_of_fold != other.out_of_fold).any()


@pytest.mark.parametrize("kind", ["sum", "product"])
def test_regression_finds_a_sum_with_both_sides_and_part_of_it_with_one_but_no_product(kind: str) -> None:
    features = planted_features(400, kind=kind)
    fits = {name: CANDIDATES[name](given(features)) for name in (BOTH, IMAGE, TEXT)}
    reached = {name: roc_auc_score(features.label, method.out_of_fold) for name, method in fits.items() if method}
    if kind == "sum":
        assert reached[BOTH] > 0.85 > max(reached[IMAGE], reached[TEXT]) and min(reached[IMAGE], reached[TEXT]) > 0.6
    else:
        assert max(reached.values()) < 0.6


def test_the_strongest_is_the_candidate_with_the_highest_auroc_out_of_fold() -> None:
    label = np.array([0, 1] * 10)
    scored = partial(Method, score=lambda _: np.zeros(0))
    methods = {MAJORITY: scored(label + 0.0), TEXT: scored(label * 0.5), BOTH: scored(np.zeros(20))}
    assert strongest(label, methods) == TEXT  # a reference is no candidate


def test_a_config_of_heads_that_cannot_be_is_refused() -> None:
    config = fitted("wide")[NEAR].ensemble.heads[0].config  # type: ignore[union-attr]
    for change in ({"voters": 0}, {"voters": 61}, {"known": -1}, {"known": True}):
        with pytest.raises(ValueError, match="expected a whole number"):
            replace(config, **change)  # type: ignore[type-var]
    forest = fitted("wide")[FOREST].ensemble.heads[0].config  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="trees: expected a whole number"):
        replace(forest, trees=10**9)  # type: ignore[type-var]
    assert asdict(forest)["inputs"]["blocks"] == BLOCKS  # type: ignore[call-overload]
