import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from head.judge.lead import auroc_lead


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
    assert auroc_lead(label, first, second) == pytest.approx(difference / np.sqrt(variance))
    assert auroc_lead(label, second, first) == pytest.approx(-difference / np.sqrt(variance))


def test_its_standard_error_is_that_of_the_bootstrap() -> None:
    label, first, second = draws(400, 1)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        rows = rng.integers(0, 400, 400)
        drawn.append(roc_auc_score(label[rows], first[rows]) - roc_auc_score(label[rows], second[rows]))
    difference = roc_auc_score(label, first) - roc_auc_score(label, second)
    assert auroc_lead(label, first, second) == pytest.approx(difference / np.std(drawn), rel=0.1)


def test_of_equal_rankings_none_leads_and_a_missing_class_is_no_error() -> None:
    label, first, _ = draws(50, 2)
    assert auroc_lead(label, first, 3 * first + 1) == 0
    assert auroc_lead(np.ones(50), first, -first) == 0
    assert auroc_lead(label, label, -label) == np.inf and auroc_lead(label, -label, label) == -np.inf
