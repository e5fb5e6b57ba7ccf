import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from head.judge.delong import auroc_difference, auroc_interval


def draws(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.4).astype(int)
    shared = rng.normal(size=count)
    return label, *(strength * label + shared + rng.normal(size=count) for strength in (1.0, 0.6))


def test_it_is_the_difference_in_standard_errors_of_delongs_formula_by_loops() -> None:
    label, first, second = draws(60, 0)
    first = np.round(first)  # ties
    places = []
    for score in (first, second):
        wins = (score[label == 1][:, None] > score[label == 0]) + 0.5 * (
            score[label == 1][:, None] == score[label == 0]
        )
        places.append((wins.mean(axis=1), wins.mean(axis=0)))
    difference = roc_auc_score(label, first) - roc_auc_score(label, second)
    variance = sum(np.var(one - other, ddof=1) / len(one) for one, other in zip(*places))
    found = auroc_difference(label, first, second, np.arange(60))
    assert (found.value, found.error) == pytest.approx((difference, np.sqrt(variance)))
    assert found.lead == pytest.approx(-auroc_difference(label, second, first, np.arange(60)).lead)
    few = min(label.sum(), (1 - label).sum())
    assert found.p == pytest.approx(2 * stats.t.sf(abs(difference) / np.sqrt(variance), few - 1))


def test_its_standard_error_is_that_of_the_bootstrap() -> None:
    label, first, second = draws(400, 1)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, 400, 400)
        drawn.append(roc_auc_score(label[rows], first[rows]) - roc_auc_score(label[rows], second[rows]))
    assert auroc_difference(label, first, second, np.arange(400)).error == pytest.approx(np.std(drawn), rel=0.15)
    low, high = auroc_interval(label, first, np.arange(400))
    alone = [roc_auc_score(label[rows], first[rows]) for rows in rng.integers(0, 400, (300, 400))]
    assert (low, high) == pytest.approx(tuple(np.percentile(alone, (2.5, 97.5))), abs=0.015)


def test_of_equal_rankings_none_leads_and_a_missing_class_is_no_error() -> None:
    label, first, _ = draws(50, 2)
    alone = np.arange(50)
    same = auroc_difference(label, first, 3 * first + 1, alone)
    assert (same.value, same.lead, same.p) == (0, 0, 1)
    assert auroc_difference(np.ones(50), first, -first, alone).p == 1
    ahead, behind = auroc_difference(label, label, -label, alone), auroc_difference(label, -label, label, alone)
    assert (ahead.lead, behind.lead, ahead.p) == (np.inf, -np.inf, 0)


def test_copies_tell_no_more_than_the_meme_that_they_are_of() -> None:
    label, first, second = draws(100, 3)
    thrice = [np.repeat(values, 3) for values in (label, first, second, np.arange(100))]
    once, copied = auroc_difference(label, first, second, np.arange(100)), auroc_difference(*thrice)
    assert copied.value == pytest.approx(once.value) and copied.error == pytest.approx(once.error, rel=0.01)
    assert copied.p == pytest.approx(once.p, rel=0.1)
    assert auroc_difference(*thrice[:3], np.arange(300)).error < 0.6 * once.error  # what it would be without groups
    np.testing.assert_allclose(
        auroc_interval(thrice[0], thrice[1], thrice[3]), auroc_interval(label, first, np.arange(100)), atol=0.002
    )


def test_where_all_are_told_apart_the_interval_is_that_of_clopper_and_pearson() -> None:
    label = np.array([0] * 40 + [1] * 16)
    low, high = auroc_interval(label, label, np.arange(56))
    assert high == 1 and low == pytest.approx(stats.binomtest(16, 16).proportion_ci(method="exact").low)
    assert auroc_interval(label, -label, np.arange(56)) == pytest.approx((0, 1 - low))


@pytest.mark.parametrize(("positives", "memes", "area"), [(58, 149, 0.98), (58, 149, 0.75), (6, 300, 0.75)])
def test_the_interval_holds_the_truth_as_often_as_it_says(positives: int, memes: int, area: float) -> None:
    rng, held = np.random.default_rng(0), 0
    label = (np.arange(memes) < positives).astype(int)
    for _ in range(1000):
        score = stats.norm.ppf(area) * np.sqrt(2) * label + rng.normal(size=memes)
        low, high = auroc_interval(label, score, np.arange(memes))
        held += low <= area <= high
    assert 0.93 <= held / 1000 <= 0.98


@pytest.mark.parametrize(("positives", "memes", "apart"), [(6, 300, 0.0), (6, 300, 1.0), (58, 149, 0.7)])
def test_of_two_that_are_equally_good_few_are_told_apart(positives: int, memes: int, apart: float) -> None:
    rng, rejected = np.random.default_rng(0), 0
    label = (np.arange(memes) < positives).astype(int)
    for _ in range(1000):
        shared = apart * label + rng.normal(size=memes)
        one, other = shared + rng.normal(size=(2, memes)) + apart * label
        rejected += auroc_difference(label, one, other, np.arange(memes)).p < 0.05
    assert rejected / 1000 <= 0.07  # at six positives of 300 a paired bootstrap rejects 15 %
