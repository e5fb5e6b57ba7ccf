import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from report.costs import CostModel, cost_curve, costs, per_thousand, threshold_metrics

RNG = np.random.default_rng(0)
LABEL = (RNG.random(400) < 0.3).astype(int)
CHANCES = np.clip(0.3 + 0.3 * LABEL + 0.2 * RNG.normal(size=400), 0, 1)


def test_threshold_metrics_equal_those_of_scikit_learn() -> None:
    called, found = CHANCES >= 0.5, threshold_metrics(LABEL, CHANCES, 0.5)
    assert found["recall"].point == pytest.approx(recall_score(LABEL, called))
    assert found["precision"].point == pytest.approx(precision_score(LABEL, called))
    assert found["flagged"].point == called.mean() and all(one.contains(one.point) for one in found.values())
    assert threshold_metrics(LABEL, CHANCES, 1.5)["precision"].point is None


def test_counts_at_another_prevalence_equal_those_of_resampled_memes() -> None:
    (own, *_), (asked, *others) = (
        per_thousand(LABEL, CHANCES, 0.5, cost_model) for cost_model in (CostModel(), CostModel(0.02))
    )
    called = CHANCES >= 0.5
    assert own["flagged"] == pytest.approx(1000 * called.mean())
    assert own["missed"] == pytest.approx(1000 * (~called & (LABEL == 1)).mean())
    weight = np.where(LABEL == 1, 0.02 / LABEL.mean(), 0.98 / (1 - LABEL.mean()))
    assert asked["precision"] == pytest.approx(precision_score(LABEL, called, sample_weight=weight))
    assert asked["wrong"] + asked["precision"] * asked["flagged"] == pytest.approx(asked["flagged"])
    assert [row["prevalence"] for row in others] == [0.01, 0.05, 0.2, 0.5]


def test_costs_equal_plain_counting() -> None:
    cost_model = CostModel(0.1, miss=20, alarm=2)
    thresholds, curve = cost_curve(LABEL, CHANCES, cost_model)
    for threshold, cost in zip(thresholds, curve):
        called = CHANCES >= threshold
        missed, alarms = (~called[LABEL == 1]).mean(), called[LABEL == 0].mean()
        assert cost == pytest.approx(1000 * (0.1 * 20 * missed + 0.9 * 2 * alarms))
    found = costs(LABEL, CHANCES, 0.5, cost_model)
    called = CHANCES >= 0.5
    assert found["chosen"] == pytest.approx(
        1000 * (0.1 * 20 * (~called[LABEL == 1]).mean() + 0.9 * 2 * called[LABEL == 0].mean())
    )
    assert found["cheapest"] == min(curve) <= min(found["none"], found["all"]) and found["none"] == 2000


@pytest.mark.parametrize("wrong", [{"prevalence": 0.0}, {"prevalence": 1.0}, {"miss": 0.0}, {"alarm": float("inf")}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CostModel(**wrong)
