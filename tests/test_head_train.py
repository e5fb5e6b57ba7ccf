import numpy as np
import pytest
import torch

from head.baselines import BOTH, IMAGE, MAJORITY, TEXT, fit_baselines
from head.data import Features
from head.fusion import HeadConfig
from head.metrics import auroc
from head.train import OPTIMIZERS, Diverged, TrainConfig, predict, train_head

CONFIG = HeadConfig(16, 16, "align", width=64, hidden=64, map_dropout=0.1, dropout=0.1)


def planted(rule, rows: int = 700, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, rows, 16)).astype(np.float32)
    split = np.array(["train", "validation", "test"])[np.searchsorted([0.6, 0.8], np.arange(rows) / rows, "right")]
    return Features(np.arange(rows).astype(str), image, text, rule(image, text).astype(np.int64), split)


PRODUCT = planted(lambda image, text: (image[:, :2] * text[:, :2]).sum(1) > 0)
SUM = planted(lambda image, text: image[:, 0] + text[:, 0] > 0, rows=200)


def test_align_finds_a_label_that_only_the_product_of_the_sides_carries():
    test = PRODUCT.only("test")
    head = train_head(CONFIG, TrainConfig(learning_rate=3e-3), PRODUCT.only("train", "validation"))
    baselines = fit_baselines(PRODUCT)
    reached = auroc(test.label, predict(head, test))
    alone = [auroc(test.label, baselines[name].probability(test)) for name in (BOTH, IMAGE, TEXT)]
    assert reached > 0.85 and max(alone) < 0.65


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_learns_and_the_same_seed_gives_the_same_weights(optimizer):
    rate = {"sgd": 1.0}.get(optimizer, 3e-3)
    config = TrainConfig(optimizer, rate, max_epochs=12, seed=5)
    head_config = HeadConfig(16, 16, "concat", width=16, hidden=16)
    first, second = (train_head(head_config, config, SUM).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_head(head_config, TrainConfig(optimizer, rate, max_epochs=12, seed=6), SUM)
    assert not torch.equal(first["image_map.0.weight"], other.state_dict()["image_map.0.weight"])
    test = SUM.only("test")
    assert auroc(test.label, predict(other, test)) > 0.75


def test_training_leaves_the_global_random_state_and_threads_alone():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train_head(CONFIG, TrainConfig(max_epochs=2), SUM)
    assert torch.equal(state, torch.random.get_rng_state()) and threads == torch.get_num_threads()


def test_it_stops_early_and_restores_the_epoch_with_the_lowest_loss():
    seen: list[tuple[int, float, float]] = []
    config = TrainConfig(learning_rate=3e-2, max_epochs=40, patience=3)
    head = train_head(CONFIG, config, SUM, lambda *epoch: seen.append(epoch))
    losses = [loss for _, loss, _ in seen]
    best = int(np.argmin(losses))
    assert len(seen) == best + 1 + 3 < 40
    validation = SUM.only("validation")
    given = predict(head, validation)
    loss = -np.log(np.where(validation.label == 1, given, 1 - given)).mean()
    assert loss == pytest.approx(losses[best], abs=1e-5)
    assert auroc(validation.label, given) == pytest.approx(seen[best][2])


def test_scaling_comes_from_train_alone():
    head = train_head(CONFIG, TrainConfig(max_epochs=1), SUM)
    rows = SUM.only("train").image.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(head.image_scaling.mean, rows.mean(0), atol=1e-6)


def test_a_training_that_never_had_a_finite_loss_says_so():
    with pytest.raises(Diverged, match="learning rate"):
        train_head(CONFIG, TrainConfig("sgd", 1e38, max_epochs=3), SUM)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0},
        {"batch_size": 0}, {"max_epochs": 0}, {"patience": 0}, {"seed": -1},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_logistic_regression_finds_a_sum_and_each_side_half_of_it():
    features = planted(lambda image, text: image[:, 0] + text[:, 0] > 0)
    test, baselines = features.only("test"), fit_baselines(features)
    reached = {name: auroc(test.label, baseline.probability(test)) for name, baseline in baselines.items()}
    assert list(reached) == [BOTH, IMAGE, TEXT, MAJORITY]
    assert reached[BOTH] > 0.93 and 0.7 < reached[IMAGE] < 0.93 and 0.7 < reached[TEXT] < 0.93
    assert reached[MAJORITY] == 0.5
    assert baselines[MAJORITY].probability(test)[0] == pytest.approx(features.only("train").label.mean())


def test_baselines_do_not_depend_on_test():
    cut, whole = fit_baselines(SUM.only("train", "validation")), fit_baselines(SUM)
    for name in cut:
        np.testing.assert_array_equal(cut[name].probability(SUM), whole[name].probability(SUM))
