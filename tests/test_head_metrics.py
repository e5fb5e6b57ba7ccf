import time

import numpy as np
import pytest
from sklearn import metrics as peer

from head import metrics
from head.metrics import Estimate, auroc, auroc_difference, choose_threshold, evaluate


def draw(rows: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.4).astype(np.int64)
    probability = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    return label, np.round(probability, 1) if ties else probability


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.1])
def test_points_equal_scikit_learns(ties, threshold):
    label, probability = draw(150, ties=ties)
    called = probability >= threshold
    points = {name: estimate.point for name, estimate in evaluate(label, probability, threshold, 0).items()}
    assert points == pytest.approx({
        "accuracy": peer.accuracy_score(label, called),
        "f1_offensive": peer.f1_score(label, called, zero_division=0),
        "macro_f1": peer.f1_score(label, called, average="macro", labels=[0, 1], zero_division=0),
        "auroc": peer.roc_auc_score(label, probability),
    })  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
def test_every_resamples_auroc_equals_scikit_learns(ties):
    label, probability = draw(60, seed=2, ties=ties)
    weights = next(metrics._resamples(60, seed=7))[:50]
    assert (weights.sum(axis=1) == 60).all() and weights.max() > 1
    ours = metrics._Ranked(label, probability).auroc(weights)
    theirs = [peer.roc_auc_score(label, probability, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_interval_of_accuracy_is_that_of_a_binomial_and_shrinks_with_more_memes():
    for rows in (150, 2400):
        label, probability = draw(rows)
        found = evaluate(label, probability, 0.5, 0)["accuracy"]
        half = 1.96 * np.sqrt(found.point * (1 - found.point) / rows)
        assert found.high - found.point == pytest.approx(half, rel=0.15)
        assert found.point - found.low == pytest.approx(half, rel=0.15)


def test_the_seed_decides_the_interval():
    label, probability = draw(100)
    assert evaluate(label, probability, 0.5, 3) == evaluate(label, probability, 0.5, 3)
    assert evaluate(label, probability, 0.5, 3) != evaluate(label, probability, 0.5, 4)


def test_ten_thousand_memes_do_not_take_long():
    label, probability = draw(10_000)
    start = time.process_time()  # not the clock on the wall: the tests share their cores
    evaluate(label, probability, 0.5, 0)
    assert time.process_time() - start < 4  # about 0.5; 8,000 calls of scikit-learn take 40


@pytest.mark.parametrize("value", [0, 1])
def test_with_one_class_auroc_is_not_available_and_nothing_fails(value):
    label = np.full(20, value)
    found = evaluate(label, np.linspace(0, 1, 20), 0.5, 0)
    assert found["auroc"] == Estimate(None, None, None) and str(found["auroc"]) == "n/a"
    assert found["accuracy"].point == 0.5 and auroc(label, np.zeros(20)) is None


def test_one_rare_positive_leaves_some_resamples_out_instead_of_failing():
    found = evaluate(np.array([1] + [0] * 19), np.linspace(1, 0, 20), 0.5, 0)["auroc"]
    assert (found.point, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_difference_of_a_method_to_itself_is_zero_and_of_a_better_one_positive():
    label, probability = draw(300)
    noise = np.random.default_rng(1).random(300)
    same = auroc_difference(label, probability, probability, 0)
    assert (same.point, same.low, same.high) == (0, 0, 0)
    better = auroc_difference(label, probability, noise, 0)
    assert better.low > 0 and better.point == pytest.approx(auroc(label, probability) - auroc(label, noise))


@pytest.mark.parametrize("ties", [False, True])
def test_no_threshold_has_a_higher_macro_f1(ties):
    label, probability = draw(80, seed=4, ties=ties)
    chosen = choose_threshold(label, probability)

    def macro_f1(threshold: float) -> float:
        return peer.f1_score(label, probability >= threshold, average="macro", labels=[0, 1], zero_division=0)

    assert macro_f1(chosen) == pytest.approx(max(macro_f1(t) for t in (*np.unique(probability), 1.1)))


@pytest.mark.parametrize(
    ("label", "probability", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),  # the middle of the gap
        ([0, 1, 0, 1], [0.1, 0.3, 0.8, 0.9], 0.2),  # .2 and .85 are equally good
        ([0, 1, 1], [0.4, 0.4, 0.4], 0.2),  # a constant: everything is called what most are
        ([0, 0, 1], [0.4, 0.4, 0.4], 0.7),
        ([0, 1], [0.0, 1.0], 0.5),
    ],
)
def test_thresholds_are_mid_points(label, probability, threshold):
    assert choose_threshold(np.array(label), np.array(probability)) == pytest.approx(threshold)


@pytest.mark.parametrize("probability", [[0.1, np.nan], [0.1], []])
def test_bad_input_is_refused(probability):
    label, probability = np.array([0, 1][: max(1, len(probability) + 1)]), np.array(probability)
    with pytest.raises(ValueError, match="probabilit"):
        choose_threshold(label, probability)
    with pytest.raises(ValueError, match="probabilit"):
        evaluate(label, probability, 0.5, 0)
