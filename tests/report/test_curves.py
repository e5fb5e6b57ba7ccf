"""The values behind the plots."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from head.judge.curves import precision_recall, roc, threshold_figures
from report.curves import both_classes, confusion, reliability

RNG = np.random.default_rng(0)
LABEL = (RNG.random(83) < 0.4).astype(int)
PROBABILITIES = {
    "distinct": RNG.random(83),
    "tied": RNG.integers(0, 5, 83) / 5,
    "equal": np.full(83, 0.3),
    "perfect": LABEL * 0.5 + 0.25,
}
each = pytest.mark.parametrize("probability", PROBABILITIES.values(), ids=PROBABILITIES)


@each
def test_each_point_of_the_curves_is_that_of_one_threshold(probability: np.ndarray) -> None:
    called = probability >= np.unique(probability)[::-1, None]  # (T, N)
    hits, alarms = called[:, LABEL == 1].mean(axis=1), called[:, LABEL == 0].mean(axis=1)
    precision = [LABEL[row].mean() for row in called]
    np.testing.assert_allclose(roc(LABEL, probability), (np.append(0, alarms), np.append(0, hits)))
    np.testing.assert_allclose(precision_recall(LABEL, probability), (hits, precision))


@each
def test_figures_at_each_threshold_equal_those_of_scikit_learn(probability: np.ndarray) -> None:
    thresholds, figures = threshold_figures(LABEL, probability)
    assert thresholds.tolist() == sorted(set(probability.tolist()))
    for place, threshold in enumerate(thresholds):
        called = probability >= threshold
        assert figures["precision"][place] == pytest.approx(precision_score(LABEL, called))
        assert figures["recall"][place] == pytest.approx(recall_score(LABEL, called))
        assert figures["F1 of offensive"][place] == pytest.approx(f1_score(LABEL, called))
        assert figures["macro-F1"][place] == pytest.approx(f1_score(LABEL, called, average="macro"))


def test_reliability_bins_each_meme_once_with_the_share_inside_its_interval() -> None:
    probability = PROBABILITIES["distinct"]
    given, share, (low, high) = reliability(LABEL, probability)
    assert len(given) == 83 // 15
    sizes = [len(rows) for rows in np.array_split(np.arange(83), len(given))]
    assert np.dot(given, sizes) == pytest.approx(probability.sum())
    assert np.dot(share, sizes) == pytest.approx(LABEL.sum())
    assert (np.diff(given) > 0).all() and (low <= share).all() and (share <= high).all() and (low < high).all()
    assert len(reliability(LABEL[:8], probability[:8])[0]) == 1


def test_confusion_without_a_review_band_equals_that_of_scikit_learn() -> None:
    probability = PROBABILITIES["tied"]
    (tn, fp), (fn, tp) = confusion_matrix(LABEL, probability >= 0.4)
    assert confusion(LABEL, probability, 0.4, None) == {1: (tp, 0, fn), 0: (fp, 0, tn)}


def test_the_review_band_includes_its_low_end_and_excludes_its_high_end() -> None:
    label, probability = np.array([1, 1, 1, 0, 0, 0]), np.array([0.6, 0.5, 0.4, 0.6, 0.45, 0.39])
    assert confusion(label, probability, 0.5, (0.4, 0.6)) == {1: (1, 2, 0), 0: (1, 1, 1)}


def test_both_classes() -> None:
    assert both_classes(np.array([0, 1]))
    assert not both_classes(np.zeros(3, int)) and not both_classes(np.ones(3, int))
