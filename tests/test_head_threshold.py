import time
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as peer

from head.judge.metrics import share
from head.judge.threshold import OBJECTIVES, Aim, Unreachable, choose_threshold, measure_band, review_band


def draw(rows: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.4).astype(np.int64)
    probability = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    return label, np.round(probability, 1) if ties else probability


def candidates(probability: np.ndarray) -> list[float]:
    distinct = sorted(set(probability.tolist()))
    return [0.0, *((a + b) / 2 for a, b in pairwise(distinct)), 1.0]


def merit(objective: str, label: np.ndarray, called: np.ndarray) -> float:
    return {
        "macro-f1": lambda: peer.f1_score(label, called, average="macro", labels=[0, 1], zero_division=0),
        "f1": lambda: peer.f1_score(label, called, zero_division=0),
        "accuracy": lambda: peer.accuracy_score(label, called),
        "precision": lambda: peer.precision_score(label, called, zero_division=0),
        "recall": lambda: peer.recall_score(label, called, zero_division=0),
    }[objective]()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("objective", ["macro-f1", "f1", "accuracy"])
def test_the_best_threshold_is_that_of_a_loop_over_all_of_them(objective, seed, ties):
    label, probability = draw(60, seed, ties)
    found = [(merit(objective, label, probability >= t), t) for t in candidates(probability)]
    best = max(score for score, _ in found)
    expected = min((t for score, t in found if score > best - 1e-9), key=lambda t: abs(t - 0.5))
    assert choose_threshold(label, probability, Aim(objective)) == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("objective", ["precision", "recall"])
def test_targets_are_reached_at_the_least_cost(objective, target, ties):
    label, probability = draw(60, seed=1, ties=ties)
    reaching = [t for t in candidates(probability) if merit(objective, label, probability >= t) >= target]
    if objective == "precision":  # a call at all is part of it
        reaching = [t for t in reaching if (probability >= t).any()]
    if not reaching:
        with pytest.raises(Unreachable):
            choose_threshold(label, probability, Aim(objective, target))
        return
    expected = min(reaching) if objective == "precision" else max(reaching)
    assert choose_threshold(label, probability, Aim(objective, target)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "probability", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),  # the middle of the gap
        ([0, 1, 0, 1], [0.1, 0.3, 0.8, 0.9], 0.2),  # .2 and .85 are equally good
        ([0, 1, 1], [0.4, 0.4, 0.4], 0.0),  # a constant: everything is called what most are
        ([0, 0, 1], [0.4, 0.4, 0.4], 1.0),
        ([0, 1], [0.0, 1.0], 0.5),
        ([0, 0], [0.1, 0.2], 1.0),
        ([1, 1], [0.1, 0.2], 0.0),
    ],
)
def test_thresholds_are_mid_points_or_ends(label, probability, threshold):
    assert choose_threshold(np.array(label), np.array(probability), Aim()) == pytest.approx(threshold)


def test_the_best_f1_of_a_ranking_turned_round_is_to_call_every_meme_offensive():
    label = np.array([1, 1, 0, 1, 0, 0])
    assert choose_threshold(label, np.linspace(0.1, 0.9, 6), Aim("f1")) == 0.0


def test_a_share_equal_to_the_target_reaches_it():
    label = np.array([1] * 10)
    assert choose_threshold(label, np.linspace(0.05, 0.95, 10), Aim("recall", 0.9)) == pytest.approx(0.1)
    label = np.array([1] * 9 + [0])
    assert choose_threshold(label, np.full(10, 0.5), Aim("precision", 0.9)) == 0.0


def test_an_unreachable_precision_is_refused_with_the_best_there_is():
    label, probability = np.array([0, 1, 0, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    with pytest.raises(Unreachable, match=r"precision 0\.9: the best that any threshold reaches is 0\.500"):
        choose_threshold(label, probability, Aim("precision", 0.9))


@pytest.mark.parametrize("objective", ["precision", "recall"])
def test_without_offensive_memes_no_target_is_reached(objective):
    with pytest.raises(Unreachable, match=rf"{objective} 0\.5: the best that any threshold reaches is 0\.000"):
        choose_threshold(np.zeros(3, dtype=int), np.array([0.1, 0.2, 0.3]), Aim(objective, 0.5))


@pytest.mark.parametrize(
    ("objective", "target"),
    [("auroc", None), ("f1", 0.5), ("recall", None), ("recall", 0.0), ("precision", 1.01), ("recall", float("nan"))],
)
def test_aims_that_make_no_sense_are_refused(objective, target):
    with pytest.raises(ValueError, match=r"expected .* got"):
        Aim(objective, target)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_million_memes_are_sorted_and_not_compared_with_each_other(objective):
    label, probability = draw(1_000_000)
    start = time.process_time()
    choose_threshold(label, probability, Aim(objective, 0.5 if objective in ("precision", "recall") else None))
    assert time.process_time() - start < 3  # about .3


@pytest.mark.parametrize("wanted", [0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.9, 1.0])
def test_the_band_holds_the_nearest_memes_of_a_sorted_list(threshold, wanted):
    rng = np.random.default_rng(6)
    label, probability = (rng.random(101) < 0.4).astype(np.int64), rng.uniform(0.02, 0.98, 101)
    band = review_band(label, probability, threshold, wanted)

    def distance(p: float) -> float:
        edge = min(max(threshold, 1e-9), 1 - 1e-9)
        return abs(np.log(p / (1 - p)) - np.log(edge / (1 - edge)))

    nearest = sorted(range(101), key=lambda i: distance(probability[i]))[: round(wanted * 101)]
    inside = (probability >= band.low) & (probability < band.high)
    assert set(np.flatnonzero(inside)) == set(nearest)
    assert 0 <= band.low <= threshold <= band.high <= 1
    assert band.coverage == pytest.approx((~inside).mean())
    answered = [i for i in range(101) if i not in nearest]
    wrong = np.array([(probability[i] >= threshold) != label[i] for i in answered])
    assert band.error == share(wrong)
    assert (band.coverage, band.error) == measure_band(label, probability, threshold, band.low, band.high)


def test_the_band_is_as_wide_on_either_side_in_logits():
    label, probability = draw(200)
    band = review_band(label, probability, 0.3, 0.2)
    low, centre, high = (np.log(p / (1 - p)) for p in (band.low, 0.3, band.high))
    assert centre - low == pytest.approx(high - centre)


@pytest.mark.parametrize(
    ("probability", "threshold", "wanted", "coverage"),
    [
        ([0.4] * 10, 0.0, 0.2, 1.0),  # all equally near: none is nearer to a fifth than all
        ([0.4] * 10, 0.4, 0.8, 0.0),
        ([0.4] * 5 + [0.6] * 5, 0.5, 0.4, 1.0),  # as far on either side
        ([0.4] * 5 + [0.6] * 5, 0.5, 0.6, 0.0),
        ([0.4] * 3 + [0.7] * 7, 0.5, 0.2, 0.7),  # three are nearer to two than none is
        ([0.0] * 4 + [0.3] + [0.9] * 5, 0.0, 0.4, 0.6),
        ([0.0] * 4 + [0.3] + [1.0] * 5, 0.99, 0.1, 0.9),  # 1 is in no half-open band: the .3 is the nearest
        ([1.0] * 10, 1.0, 0.2, 1.0),
        ([0.0] * 10, 0.5, 0.9, 0.0),
    ],
)
def test_ties_and_certainties_are_left_or_answered_together(probability, threshold, wanted, coverage):
    band = review_band(np.arange(10) % 2, np.array(probability), threshold, wanted)
    assert band.coverage == pytest.approx(coverage)
    assert 0 <= band.low <= threshold <= band.high <= 1
    assert (band.error.point is None) == (coverage == 0)


@pytest.mark.parametrize(("wanted", "left"), [(0.1, 8), (0.3, 24), (0.6, 36), (0.95, 80)])
def test_probabilities_within_a_billionth_of_certainty_are_tied(wanted, left):
    small = np.logspace(-16, -3, 40)  # 22 up to 1e-9
    probability = np.concatenate([1 - small, small])
    band = review_band(np.arange(80) % 2, probability, 0.5, wanted)
    assert ((probability >= band.low) & (probability < band.high)).sum() == left


def test_a_band_is_measured_on_other_memes_with_their_own_labels():
    label, probability = np.array([0, 1, 1, 0]), np.array([0.1, 0.2, 0.5, 0.8])
    coverage, error = measure_band(label, probability, 0.45, 0.4, 0.6)
    assert coverage == 0.75 and error.point == pytest.approx(2 / 3)
    coverage, error = measure_band(label, probability, 0.45, 0.0, 1.0)
    assert coverage == 0 and error.point is None


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_of_none_or_all_is_refused(wanted):
    with pytest.raises(ValueError, match="share: expected"):
        review_band(np.array([0, 1]), np.array([0.1, 0.2]), 0.5, wanted)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.7), (0.2, 0.4), (-0.1, 0.6), (0.4, 1.1)])
def test_a_band_without_its_threshold_is_refused(low, high):
    with pytest.raises(ValueError, match="low <= threshold <= high"):
        measure_band(np.array([0, 1]), np.array([0.1, 0.2]), 0.5, low, high)


@pytest.mark.parametrize("probability", [[0.1, np.nan], [0.1], [0.1, 2.0]])
def test_bad_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match="probabilit"):
        choose_threshold(np.array([0, 1]), np.array(probability), Aim())
