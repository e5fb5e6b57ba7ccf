import json
import time

import numpy as np
import pytest
from sklearn import metrics as peer

from head.data.ranking import auroc, aurocs
from head.judge import metrics
from head.judge.metrics import METRICS, Estimate, measure, read_estimate, share


def draw(rows: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.4).astype(np.int64)
    probability = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    return label, np.round(probability, 1) if ties else probability


def one(label: np.ndarray, probability: np.ndarray, threshold: float = 0.5, seed: int = 0) -> dict[str, Estimate]:
    """Every estimate of a single method."""
    return measure(label, {"it": probability}, {"it": threshold}, np.arange(len(label)), seed)["it"]


def calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    total = 0.0
    for k in range(10):
        inside = [i for i, p in enumerate(probability) if int(p * 10) == k or (k == 9 and p == 1)]
        if inside:
            total += abs(label[inside].mean() - probability[inside].mean()) * len(inside) / len(label)
    return total


def by_peers(label: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    called = probability >= threshold
    f1 = {"labels": [0, 1], "zero_division": 0}
    return {
        "accuracy": peer.accuracy_score(label, called),
        "f1_offensive": peer.f1_score(label, called, zero_division=0),
        "macro_f1": peer.f1_score(label, called, average="macro", **f1),
        "weighted_f1": peer.f1_score(label, called, average="weighted", **f1),
        "auroc": peer.roc_auc_score(label, probability),
        "average_precision": peer.average_precision_score(label, probability),
        "brier": peer.brier_score_loss(label, probability),
        "ece": calibration_error(label, probability),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.1])
def test_points_equal_scikit_learns(ties, threshold):
    label, probability = draw(150, ties=ties)
    points = {name: estimate.point for name, estimate in one(label, probability, threshold).items()}
    assert tuple(points) == METRICS
    assert points == pytest.approx(by_peers(label, probability, threshold))


@pytest.mark.parametrize("ties", [False, True])
def test_the_figures_of_a_resample_are_those_of_the_memes_it_repeats(ties):
    label, probability = draw(60, seed=2, ties=ties)
    weights = next(metrics._resamples(np.arange(60), seed=7))[:50]
    assert (weights.sum(axis=1) == 60).all() and weights.max() > 1
    ours = metrics._Judged(label, probability, 0.5).figures(weights)
    for row, found in zip(weights.astype(np.int64), ours):
        expected = by_peers(np.repeat(label, row), np.repeat(probability, row), 0.5)
        np.testing.assert_allclose(found, list(expected.values()), atol=1e-6)


def test_the_interval_of_accuracy_is_that_of_a_binomial_and_shrinks_with_more_memes():
    for rows in (150, 1200):
        label, probability = draw(rows)
        found = one(label, probability)["accuracy"]
        half = 1.96 * np.sqrt(found.point * (1 - found.point) / rows)
        assert found.high - found.point == pytest.approx(half, rel=0.15)
        assert found.point - found.low == pytest.approx(half, rel=0.15)


def test_intervals_are_a_little_wider_than_plain_percentiles_and_as_wide_with_many_memes():
    def excess(rows: int) -> float:
        label, probability = draw(rows, seed=1)
        judged = metrics._Judged(label, probability, 0.5)
        drawn = np.concatenate([judged.figures(weights) for weights in metrics._resamples(np.arange(rows), 0)])
        plain = np.ptp(np.percentile(drawn[:, METRICS.index("average_precision")], (2.5, 97.5)))
        found = one(label, probability)["average_precision"]
        return (found.high - found.low) / plain - 1

    assert 0.04 < excess(60) < 0.13  # Student's t for the 24 of the rarer class, and the root of 24 / 23: .075
    assert 0 <= excess(1200) < 0.01


def test_copies_are_drawn_together_so_that_their_intervals_are_those_of_the_memes_that_they_are_of():
    label, probability = draw(80)
    thrice = [np.repeat(values, 3) for values in (label, probability, np.arange(80))]
    once = one(label, probability)
    copied = measure(thrice[0], {"it": thrice[1]}, {"it": 0.5}, thrice[2], 0)["it"]
    for metric in ("accuracy", "macro_f1", "auroc", "brier"):
        assert copied[metric].point == pytest.approx(once[metric].point)
        assert (copied[metric].low, copied[metric].high) == pytest.approx(
            (once[metric].low, once[metric].high), abs=0.01
        )
    apart = one(thrice[0], thrice[1])["accuracy"]
    assert apart.high - apart.low < 0.7 * (once["accuracy"].high - once["accuracy"].low)


def test_a_figure_of_0_or_1_has_an_interval_and_the_calibration_error_has_none():
    label = np.array([0] * 40 + [1] * 16)
    found = one(label, 0.1 + 0.8 * label)
    for metric in ("f1_offensive", "macro_f1", "average_precision"):
        assert found[metric] == share(np.ones(16, bool))
    assert found["accuracy"] == share(np.ones(56, bool)) and 0.7 < found["auroc"].low < found["auroc"].high == 1
    assert found["ece"].low is None and str(found["ece"]) == f"{found['ece'].point:.3f}"
    nothing = one(label, np.full(56, 0.3))["f1_offensive"]
    assert nothing == share(np.zeros(16, bool)) and nothing.high > 0.1


def test_the_seed_decides_the_interval():
    label, probability = draw(100)
    assert one(label, probability, seed=3) == one(label, probability, seed=3)
    assert one(label, probability, seed=3) != one(label, probability, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_every_interval_holds_its_point_and_stays_within_0_and_1(seed):
    label, probability = draw(40, seed)
    label = (np.random.default_rng(seed).random(40) < probability).astype(np.int64)  # calibrated: the ECE is small
    for metric, estimate in one(label, probability).items():
        assert metric == "ece" or 0 <= estimate.low <= estimate.point <= estimate.high <= 1


def test_a_method_keeps_its_figures_in_other_company():
    label, probability = draw(80)
    others = {"it": probability, "noise": np.random.default_rng(1).random(80)}
    together = measure(label, others, {"it": 0.4, "noise": 0.5}, np.arange(80), 0)["it"]
    assert together == one(label, probability, 0.4)


def test_twenty_thousand_memes_do_not_take_long():
    label, probability = draw(20_000)
    start = time.process_time()  # not the clock on the wall: the tests share their cores
    one(label, probability)
    assert time.process_time() - start < 6  # about 1.5; as many calls of scikit-learn take minutes


@pytest.mark.parametrize("value", [0, 1])
def test_with_one_class_the_ranking_has_no_figures_and_nothing_fails(value):
    label = np.full(20, value)
    found = one(label, np.linspace(0, 1, 20))
    for name in ("auroc", "average_precision"):
        assert found[name] == Estimate(None, None, None) and str(found[name]) == "n/a"
    assert found["accuracy"].point == 0.5
    assert auroc(label, np.zeros(20)) is None


def test_one_rare_positive_leaves_some_resamples_out_instead_of_failing():
    found = one(np.array([1] + [0] * 19), np.linspace(1, 0, 20))["auroc"]
    assert (found.point, found.low, found.high) == (1.0, 0.025, 1.0)


def test_a_single_meme_has_figures():
    assert one(np.array([1]), np.array([0.75]))["brier"] == Estimate(0.0625, 0.0625, 0.0625)


@pytest.mark.parametrize("figure", [Estimate(0.5, 0.25, 0.75), Estimate(0.5, None, None), Estimate(None, None, None)])
def test_figures_survive_json(figure):
    assert read_estimate(json.loads(json.dumps(figure.plain(), allow_nan=False))) == figure


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_many_members_aurocs_equal_scikit_learns_over_the_memes_that_count(ties, shared):
    rng = np.random.default_rng(4)
    score = rng.normal(size=(7, 60)).astype(np.float32)
    score = np.round(score, 0) if ties else score
    label = rng.integers(0, 2, 60 if shared else (7, 60))
    weight = rng.integers(0, 2, (7, 60))
    rows = np.broadcast_to(label, (7, 60))
    expected = [peer.roc_auc_score(y, s, sample_weight=w) for y, s, w in zip(rows, score, weight)]
    np.testing.assert_allclose(aurocs(label, score, weight), expected, atol=1e-12)
    expected = [peer.roc_auc_score(y, s) for y, s in zip(rows, score)]
    np.testing.assert_allclose(aurocs(label, score), expected, atol=1e-12)
    assert auroc(rows[0], score[0]) == pytest.approx(expected[0])


def test_a_member_without_one_class_or_with_a_score_that_is_no_number_has_no_auroc():
    label = np.array([0, 1, 1, 0])
    score = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 2.0, 1.0], [0.1, np.nan, 0.3, 0.4], [5.0, 5.0, 5.0, 5.0]])
    weight = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(aurocs(label, score, weight), [np.nan, 1.0, np.nan, 0.5])


def test_the_aurocs_of_an_epoch_are_quick():
    rng = np.random.default_rng(0)
    label, score, weight = rng.integers(0, 2, 120), rng.normal(size=(5, 120)), rng.integers(0, 2, (5, 120))
    start = time.process_time()
    for _ in range(500):
        aurocs(label, score, weight)
    assert time.process_time() - start < 0.5  # about .02; a tuning run calls it some ten thousand times


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 149, 0.0012, 0.0370)],
)
def test_shares_have_wilsons_interval(hits, rows, low, high):
    found = share(np.arange(rows) < hits)
    assert found.point == hits / rows
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert 0 <= found.low <= found.point <= found.high <= 1


def test_a_share_of_nothing_is_not_available():
    assert share(np.zeros(0, dtype=bool)) == Estimate(None, None, None)


@pytest.mark.parametrize(
    ("label", "probability", "thresholds", "message"),
    [
        ([0, 1], [0.1, np.nan], {"it": 0.5}, "it: expected probabilities"),
        ([0, 1], [0.1, 1.1], {"it": 0.5}, "it: expected probabilities"),
        ([0, 1], [0.1], {"it": 0.5}, "one label per probability"),
        ([], [], {"it": 0.5}, "one label per probability"),
        ([0, 2], [0.1, 0.2], {"it": 0.5}, "labels 0 and 1"),
        ([0, 1], [0.1, 0.2], {"other": 0.5}, "a threshold per method"),
    ],
)
def test_bad_input_is_refused(label, probability, thresholds, message):
    with pytest.raises(ValueError, match=message):
        measure(np.array(label), {"it": np.array(probability)}, thresholds, np.arange(len(label)), 0)
