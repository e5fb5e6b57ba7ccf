import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from head.judge.calibration import PLATT, TEMPERATURE, Calibration
from head.judge.fit_calibration import fit_calibration
from head.judge.metrics import measure


def planted(rows: int, slope: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels drawn at sigmoid(slope * logit + offset), and five folds."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, rows)
    label = (rng.random(rows) < expit(slope * logits + offset)).astype(np.int64)
    return logits, label, np.arange(rows) % 5


@pytest.mark.parametrize(("slope", "offset"), [(0.3, -0.7), (1.0, 0.5), (3.0, 1.0)])
def test_a_planted_slope_and_offset_are_found(slope, offset):
    found = fit_calibration(*planted(40_000, slope, offset))
    assert found.kind == PLATT
    assert (found.slope, found.offset) == pytest.approx((slope, offset), rel=0.06)


@pytest.mark.parametrize("slope", [0.3, 1.0, 3.0])
def test_without_an_offset_the_temperature_is_found(slope):
    found = [fit_calibration(*planted(600, slope, 0.0, seed)) for seed in range(12)]
    kept = [calibration for calibration in found if calibration.kind == TEMPERATURE]
    assert len(kept) > 6  # an offset that is not there helps by chance now and then
    for calibration in kept:
        assert calibration.slope == pytest.approx(slope, rel=0.3) and calibration.offset == 0


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_platt_scaling_of_many_memes_is_logistic_regression(scale):
    logits, label, fold = planted(20_000, 0.5, -1.0)
    found = fit_calibration(scale * logits, label, fold)
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(scale * logits[:, None], label)
    assert found.kind == PLATT
    assert (found.slope, found.offset) == pytest.approx((peer.coef_[0, 0], peer.intercept_[0]), rel=1e-3)


def test_temperature_scaling_is_logistic_regression_without_intercept():
    logits, label, fold = planted(600, 1.0, 0.0, seed=2)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], label)
    found = fit_calibration(logits, label, fold)
    assert found.kind == TEMPERATURE and found.slope == pytest.approx(peer.coef_[0, 0], rel=1e-5)


def test_no_slope_and_offset_nearby_have_a_lower_loss_on_smoothed_targets():
    logits, label, fold = planted(80, 0.5, -1.5, seed=3)
    found = fit_calibration(logits, label, fold)
    assert found.kind == PLATT
    ones = label.sum()
    target = np.where(label == 1, (ones + 1) / (ones + 2), 1 / (80 - ones + 2))

    def loss(slope: float, offset: float) -> float:
        p = expit(slope * logits + offset)
        return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum()

    best = loss(found.slope, found.offset)
    for slope in (-0.01, 0, 0.01):
        for offset in (-0.01, 0, 0.01):
            assert loss(found.slope + slope, found.offset + offset) >= best


@pytest.mark.parametrize("turned", [False, True])
def test_the_ranking_never_changes(turned):
    logits, label, fold = planted(200, 1.0, -0.5)
    label = 1 - label if turned else label  # the likeliest slope would be negative
    found = fit_calibration(logits, label, fold)
    order = np.argsort(logits)
    assert (np.diff(found(logits)[order]) > 0).all()
    assert not turned or found.slope == 0.01


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_overconfident_logits_become_honest_on_new_memes(offset):
    logits, label, fold = planted(2000, 0.25, offset)
    found = fit_calibration(logits[:1000], label[:1000], fold[:1000])
    methods = {"before": expit(logits[1000:]), "after": found(logits[1000:])}
    figures = measure(label[1000:], methods, {"before": 0.5, "after": 0.5}, np.arange(1000), 0)
    before, after = figures["before"], figures["after"]
    assert after["brier"].high < before["brier"].low and after["ece"].point < before["ece"].point / 2
    assert after["auroc"] == before["auroc"]  # the same ranking


def test_the_kind_is_the_one_that_serves_the_held_out_folds():
    """Either fold alone wants an offset, and the opposite one serves the other badly."""
    logits = np.tile(np.linspace(-1, 1, 40), 2)
    label = np.concatenate([np.arange(40) >= 8, np.arange(40) >= 32]).astype(np.int64)
    fold = np.repeat([0, 1], 40)
    assert fit_calibration(logits, label, fold).kind == TEMPERATURE
    label = np.tile(np.arange(40) >= 32, 2).astype(np.int64)
    assert fit_calibration(logits, label, fold).kind == PLATT


def test_one_fold_is_halved_and_gives_the_same_each_time():
    logits, label, _ = planted(150, 0.5, -1.5)
    found = fit_calibration(logits, label, np.zeros(150, dtype=int))
    assert found == fit_calibration(logits, label, np.full(150, 7)) and found.kind == PLATT
    logits, label, _ = planted(150, 0.5, 0.0, seed=5)
    assert fit_calibration(logits, label, np.zeros(150, dtype=int)).kind == TEMPERATURE


@pytest.mark.parametrize(
    "logits",
    [
        np.linspace(-1e6, 1e6, 20),
        np.linspace(1e6, 1e6 + 1, 20),
        np.linspace(-1e-6, 1e-6, 20),
        np.zeros(20),
        np.full(20, 0.1),
        np.full(20, -50.0),
        np.array([0.0] * 19 + [1e8]),
    ],
)
@pytest.mark.parametrize(
    "label", [np.arange(20) % 2, np.arange(20) >= 10, np.zeros(20), np.ones(20), np.arange(20) < 4]
)
def test_odd_logits_and_one_class_folds_end_in_a_finite_calibration(logits, label):
    for fold in (np.zeros(20, dtype=int), np.arange(20) // 4, np.arange(20)):
        found = fit_calibration(logits, label.astype(np.int64), fold)
        assert 0.01 <= found.slope <= 100 and np.isfinite(found.offset)
        assert np.isfinite(found(logits)).all()


def test_constant_logits_become_the_share_of_offensive_memes():
    label = (np.arange(1000) % 10 < 3).astype(np.int64)
    found = fit_calibration(np.full(1000, 0.1), label, np.arange(1000) % 5)
    assert found(np.full(3, 0.1)) == pytest.approx(np.full(3, 0.3), abs=0.002)


@pytest.mark.parametrize(
    ("kind", "slope", "offset"),
    [
        ("isotonic", 1.0, 0.0),
        (PLATT, 0.0, 0.0),
        (PLATT, -1.0, 0.0),
        (PLATT, float("inf"), 0.0),
        (PLATT, float("nan"), 0.0),
        (PLATT, 1.0, float("nan")),
        (TEMPERATURE, 1.0, 0.1),
    ],
)
def test_calibrations_that_are_none_are_refused(kind, slope, offset):
    with pytest.raises(ValueError, match=r"expected .* got"):
        Calibration(kind, slope, offset)


@pytest.mark.parametrize(
    ("logits", "label", "fold"),
    [([1.0], [1], [0]), ([1.0, 2.0], [1], [0, 1]), ([1.0, np.nan], [0, 1], [0, 1]), ([1.0, 2.0], [0, 2], [0, 1])],
)
def test_bad_input_is_refused(logits, label, fold):
    with pytest.raises(ValueError, match="expected"):
        fit_calibration(np.array(logits), np.array(label), np.array(fold))
