from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from head.model.losses import LossConfig, class_weights, classification_loss, cosines, nearest, retrieval_loss

MEMBERS, MEMES, WIDTH = 3, 11, 5
RNG = np.random.default_rng(0)
LOGITS = (4 * RNG.normal(size=(MEMBERS, MEMES))).astype(np.float32)
LABEL = (RNG.random((MEMBERS, MEMES)) < 0.4).astype(np.float32)
WEIGHT = RNG.uniform(0, 2, (MEMBERS, MEMES)).astype(np.float32)
WEIGHT[1, 6:] = 0  # memes that do not count


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def one_loss(logit: float, label: float, config: LossConfig) -> float:
    """The loss of one meme, from the papers' formulas."""
    p = 1 / (1 + np.exp(-float(logit)))
    target = [config.smoothing / 2, 1 - config.smoothing / 2][int(label)]
    entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    of_label = p if label else 1 - p
    return entropy * (1 - of_label) ** config.focus if config.kind == "focal" else entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", [{"kind": "bce"}, {"kind": "focal"}, {"kind": "focal", "focus": 0.5}])
def test_the_loss_is_the_weighted_mean_of_the_memes_losses(kind: dict[str, Any], smoothing: float) -> None:
    config = LossConfig(**kind, smoothing=smoothing)
    found = classification_loss(config, *tensors(LOGITS, LABEL, WEIGHT))
    for m in range(MEMBERS):
        each = [one_loss(logit, label, config) for logit, label in zip(LOGITS[m], LABEL[m])]
        assert float(found[m]) == pytest.approx(np.average(each, weights=WEIGHT[m]), rel=1e-4)


def test_focal_loss_without_focus_is_cross_entropy_and_focus_lowers_the_easy_memes_share() -> None:
    arrays = tensors(LOGITS, LABEL, WEIGHT)
    plain = classification_loss(LossConfig(), *arrays)
    torch.testing.assert_close(classification_loss(LossConfig("focal", focus=0.0), *arrays), plain)
    easy, hard = tensors(np.array([[3.0]]), np.array([[-3.0]]))
    one = torch.ones(1, 1, dtype=easy.dtype)
    for logits, least, most in ((easy, 0, 0.01), (hard, 0.85, 1)):
        share = classification_loss(LossConfig("focal"), logits, one, one) / classification_loss(
            LossConfig(), logits, one, one
        )
        assert least < float(share) < most


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_members_and_memes_that_do_not_count_have_no_part_in_a_members_loss(kind: str) -> None:
    logits, label, weight = tensors(LOGITS, LABEL, WEIGHT)
    logits.requires_grad_()
    config = LossConfig(kind, smoothing=0.1)
    classification_loss(config, logits, label, weight)[1].backward()
    counted = logits.grad != 0
    assert not counted[[0, 2]].any() and not counted[1, 6:].any() and counted[1, :6].all()


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_confident_mistakes_have_finite_losses_and_gradients(kind: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    loss = classification_loss(LossConfig(kind), logits, torch.tensor([[0.0, 1.0, 1.0]]), torch.ones(1, 3))
    loss.sum().backward()
    assert loss.item() == pytest.approx(2e4 / 3) and logits.grad.isfinite().all()


def test_class_weights_are_scikit_learns_over_the_memes_that_count() -> None:
    counts = np.ones((MEMBERS, MEMES), np.float32)
    counts[1, 8:] = 0
    found = class_weights(*tensors(LABEL, counts)).numpy()
    for m in range(MEMBERS):
        there = counts[m] > 0
        np.testing.assert_allclose(found[m, there], compute_sample_weight("balanced", LABEL[m, there]), rtol=1e-6)
        assert found[m, there].mean() == pytest.approx(1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_retrieval_loss_is_the_mean_triplet_loss_with_the_batchs_negatives_inside_the_margin() -> None:
    anchor, like, unlike = RNG.normal(size=(3, MEMBERS, MEMES, WIDTH))
    found = retrieval_loss(*tensors(anchor, like, unlike, LABEL))
    for m in range(MEMBERS):
        each = []
        for n in range(MEMES):
            others = [cosine(anchor[m, n], anchor[m, o]) for o in range(MEMES) if LABEL[m, o] != LABEL[m, n]]
            negative = cosine(anchor[m, n], unlike[m, n]) + np.mean(others)
            each.append(max(0.0, negative - cosine(anchor[m, n], like[m, n]) + 0.1))
        assert 0 in each and max(each) > 0  # both sides of the hinge
        assert float(found[m]) == pytest.approx(np.mean(each))


def test_a_batch_of_one_label_has_no_negatives() -> None:
    anchor, like, unlike = RNG.normal(size=(3, MEMBERS, MEMES, WIDTH))
    found = retrieval_loss(*tensors(anchor, like, unlike, np.ones_like(LABEL)))
    each = [max(0.0, cosine(a, u) - cosine(a, s) + 0.1) for a, s, u in zip(anchor[0], like[0], unlike[0])]
    assert float(found[0]) == pytest.approx(np.mean(each))


def test_the_retrieval_loss_of_a_member_is_its_own() -> None:
    anchor, like, unlike = tensors(*RNG.normal(size=(3, MEMBERS, MEMES, WIDTH)))
    anchor.requires_grad_()
    retrieval_loss(anchor, like, unlike, *tensors(LABEL))[2].backward()
    assert not anchor.grad[:2].any() and anchor.grad[2].any()


def test_the_nearest_is_the_allowed_one_of_the_highest_cosine() -> None:
    query, bank = RNG.normal(size=(MEMBERS, 4, WIDTH)), RNG.normal(size=(MEMBERS, MEMES, WIDTH))
    bank *= RNG.uniform(0.1, 10, (MEMBERS, MEMES, 1))  # lengths must not matter
    allowed = RNG.random((MEMBERS, 4, MEMES)) < 0.5
    found = nearest(cosines(*tensors(query, bank)), *tensors(allowed))
    for m in range(MEMBERS):
        for n in range(4):
            places = np.flatnonzero(allowed[m, n])
            assert found[m, n] == max(places, key=lambda place: cosine(query[m, n], bank[m, place]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "hinge"}, {"smoothing": 1.0}, {"smoothing": -0.1}, {"smoothing": float("nan")}, {"focus": -1.0},
        {"focus": float("inf")}, {"contrastive": -0.5}, {"contrastive": float("nan")},
    ],
)  # fmt: skip
def test_impossible_losses_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected .* got"):
        LossConfig(**wrong)
