import re
import time
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest, norm
from sklearn import metrics as peer

from head.judge.metrics import share
from head.judge.threshold import OBJECTIVES, Aim, Unreachable, aim_words, choose_threshold, measure_band, review_band


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


def promised(hits: int, called: int, error: float) -> float:
    """Clopper and Pearson's one-sided lower bound, as scipy has it."""
    return binomtest(hits, called, alternative="greater").proportion_ci(1 - error, "exact").low


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 0.95])
def test_a_recall_is_that_of_the_highest_threshold_that_guaranteeds_it(target, ties):
    label, probability = draw(60, seed=1, ties=ties)
    offensive = probability[label == 1]
    reaching = [t for t in candidates(probability) if promised((offensive >= t).sum(), len(offensive), 0.2) >= target]
    if not reaching:
        with pytest.raises(Unreachable):
            choose_threshold(label, probability, Aim("recall", target))
    else:
        assert choose_threshold(label, probability, Aim("recall", target)) == pytest.approx(max(reaching))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target", [0.2, 0.4, 0.5, 0.6, 0.7, 0.9])
def test_a_precision_is_that_of_the_lowest_threshold_that_a_sequence_of_tests_reaches(target, ties):
    label, probability = draw(300, seed=1, ties=ties)
    tried = candidates(probability)
    starts = {max(t for t in tried if (probability >= t).sum() >= count) for count in (300, 150, 75, 37, 18)}
    passing = {
        t: (probability >= t).any()
        and promised(label[probability >= t].sum(), (probability >= t).sum(), 0.2 / len(starts)) >= target
        for t in tried
    }
    reached = []
    for start in starts:
        for threshold in sorted((t for t in tried if t <= start), reverse=True):
            if not passing[threshold]:
                break
            reached.append(threshold)
    if not reached:
        with pytest.raises(Unreachable):
            choose_threshold(label, probability, Aim("precision", target))
    else:
        assert choose_threshold(label, probability, Aim("precision", target)) == pytest.approx(min(reached))


def drawn(rng: np.random.Generator, memes: int, share: float, lead: float) -> tuple[np.ndarray, np.ndarray]:
    """Memes of which a share is offensive, whose scores lie higher by so many deviations."""
    label = (rng.random(memes) < share).astype(np.int64)
    return label, expit(rng.normal(lead * label - 1))


@pytest.mark.parametrize(("memes", "share"), [(100, 0.4), (600, 0.1), (5000, 0.02)])
@pytest.mark.parametrize(("objective", "target", "lead"), [("recall", 0.9, 1.5), ("precision", 0.6, 2.0)])
def test_a_target_is_met_on_new_memes_as_often_as_is_said(memes, share, objective, target, lead):
    rng, met = np.random.default_rng(0), []
    for _ in range(300):
        label, probability = drawn(rng, memes, share, lead)
        try:
            threshold = choose_threshold(label, probability, Aim(objective, target))
        except Unreachable:
            continue
        recall, alarms = (1 - norm.cdf(logit(threshold) - mean) for mean in (lead - 1, -1))
        precision = share * recall / (share * recall + (1 - share) * alarms)
        met.append((recall if objective == "recall" else precision) >= target)
    assert not met or np.mean(met) >= 0.77  # .8 but for the luck of 300 draws
    assert len(met) >= 295 or objective == "precision" or share < 0.1


def test_noise_guaranteeds_no_precision():
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        try:
            choose_threshold(*drawn(rng, 300, 0.4, 0), Aim("precision", 0.8))
        except Unreachable:
            refused += 1
    assert refused >= 297


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


@pytest.mark.parametrize(
    ("offensive", "target", "message"),
    [
        (
            15,
            0.9,
            r"recall 0\.9: 15 labelled offensive memes guarantee a recall of 0\.898 at most, with 80% confidence; 0\.9 takes 16",
        ),
        (15, 1.0, r"recall 1: .* 0\.898 at most, .*; no number of them guarantees a recall of 1"),
        (0, 0.5, r"recall 0\.5: 0 labelled offensive memes guarantee a recall of 0\.000 at most"),
    ],
)
def test_a_recall_that_few_memes_cannot_guaranteed_is_refused_with_what_they_can(offensive, target, message):
    label = np.arange(40) < offensive
    with pytest.raises(Unreachable, match=message):
        choose_threshold(label.astype(int), np.linspace(0.9, 0.1, 40), Aim("recall", target))
    if target == 0.9:  # one more is enough, and none of them may be missed
        assert choose_threshold((np.arange(40) < 16).astype(int), np.linspace(0.9, 0.1, 40), Aim("recall", 0.9)) > 0.55


def test_a_precision_that_cannot_be_guaranteedd_is_refused_with_what_can_and_what_it_would_take():
    label = np.array([1] * 9 + [0] * 31)
    with pytest.raises(Unreachable) as refused:
        choose_threshold(label, np.linspace(0.9, 0.1, 40), Aim("precision", 0.8))
    bound = promised(9, 10, 0.2 / 3)  # ten are called, or twenty, or all
    assert f"40 labelled memes guarantee a precision of {bound:.3f} at most, with 80% confidence" in str(refused.value)
    assert "at a threshold that calls 10 offensive, with an observed precision of 0.900; 0.8 takes some" in str(
        refused.value
    )
    more = int(re.search(r"takes some (\d+)", str(refused.value))[1])
    called = round(more / 4)
    assert promised(round(0.9 * called), called, 0.2 / 3) == pytest.approx(0.8, abs=0.02)
    with pytest.raises(Unreachable, match=r"0\.95 takes a method that ranks better"):
        choose_threshold(label, np.linspace(0.9, 0.1, 40), Aim("precision", 0.95))


@pytest.mark.parametrize("label", [np.zeros(30, int), np.ones(9, int)])
def test_too_few_calls_guaranteed_no_precision(label):
    with pytest.raises(
        Unreachable, match=r"memes guarantee none: at least 10 must be called offensive, some of them correctly"
    ):
        choose_threshold(label, np.linspace(0.1, 0.9, len(label)), Aim("precision", 0.5))


@pytest.mark.parametrize(
    ("objective", "target"),
    [("auroc", None), ("f1", 0.5), ("recall", None), ("recall", 0.0), ("precision", 1.01), ("recall", float("nan"))],
)
def test_aims_that_make_no_sense_are_refused(objective, target):
    with pytest.raises(ValueError, match=r"expected .* got"):
        Aim(objective, target)


@pytest.mark.parametrize("confidence", [0.4, 1.0, float("nan")])
def test_a_confidence_that_guaranteeds_nothing_or_everything_is_refused(confidence):
    with pytest.raises(ValueError, match=r"confidence: expected a number from 0\.5 to below 1"):
        Aim("recall", 0.9, confidence)


def test_an_aim_in_words():
    assert aim_words(asdict(Aim())) == "the highest macro-F1"
    assert aim_words(asdict(Aim("recall", 0.9))) == "a recall of at least 0.9, with 80% confidence"
    assert aim_words({"objective": "recall", "target": 0.9}) == "a recall of at least 0.9"  # of an older bundle


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
