import dataclasses
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from fakes import planted_features
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor, nn
from torch.nn import functional as F

from head.data.features import Features
from head.data.ranking import auroc
from head.model import training as module
from head.model.fusion import FusionHead, HeadConfig
from head.model.inputs import thinned
from head.model.losses import LossConfig, cosines, nearest, retrieval_loss
from head.model.training import OPTIMIZERS, Diverged, TrainConfig, Trained, TrainingSet, train_head

CPU = torch.device("cpu")
SUM = planted_features(61)
SUM = dataclasses.replace(SUM, label=(SUM.image[:, 0] + SUM.text[:, 0] > 1).astype(np.int64))  # a rarer class
ROWS = np.arange(61)
# Three folds, of which two train on a batch of one meme more than the other, and a member that holds out some of theirs.
MEMBERS = [(np.flatnonzero(ROWS % 3 != fold), np.flatnonzero(ROWS % 3 == fold)) for fold in range(3)]
MEMBERS.append((ROWS[20:50], ROWS[:20]))
HEAD = HeadConfig(8, 6, "concat", components=0, width=5, hidden=7, map_dropout=0.0, dropout=0.0)
RATES = {"adamw": 2e-2, "adam": 2e-2, "sgd": 1.0, "rmsprop": 1e-2}


def train(head: HeadConfig, config: TrainConfig, features: Features = SUM, members: Any = None, **more: Any) -> Trained:
    return train_head(head, config, TrainingSet(features, members or MEMBERS, CPU), **more)


def weights(trained: Trained, member: int) -> dict[str, Tensor]:
    return {name: value[member] for name, value in trained.head.state_dict().items()}


class Plain(nn.Module):
    """One member of HEAD, from PyTorch's own layers."""

    def __init__(self, head: FusionHead, member: int) -> None:
        super().__init__()
        self.image, self.text, self.hidden, self.output = (
            nn.Linear(*sizes) for sizes in ((8, 5), (6, 5), (10, 7), (7, 1))
        )
        for ours, theirs in self.pairs(head, member):
            theirs.data.copy_(ours)

    def pairs(self, head: FusionHead, member: int) -> Iterator[tuple[Tensor, nn.Parameter]]:
        layers = (head.maps["image"], self.image), (head.maps["text"], self.text), (head.hidden[1], self.hidden)
        for ours, theirs in (*layers, (head.output, self.output)):
            yield ours.weight[member].T, theirs.weight
            yield ours.bias[member, 0], theirs.bias

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        both = torch.cat((self.image(image), self.text(text)), dim=1)
        return self.output(torch.relu(self.hidden(both))).squeeze(1)


def scaled(vectors: np.ndarray, train: np.ndarray) -> Tensor:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.from_numpy((unit - unit[train].mean(axis=0)) / unit[train].std(axis=0))


def fit_alone(
    plain: Plain, config: TrainConfig, train: np.ndarray, held: np.ndarray, orders: list[Tensor]
) -> tuple[Plain, np.ndarray, int]:
    """One member by a loop of its own -> it after its best epoch, its held-out logits, the epochs until it stopped."""
    image, text, label = scaled(SUM.image, train), scaled(SUM.text, train), torch.from_numpy(SUM.label).float()
    weight = torch.ones(61)
    if config.loss.class_weight:
        weight[train] = torch.from_numpy(compute_sample_weight("balanced", SUM.label[train])).float()
        weight[held] = weight[[train[SUM.label[train] == SUM.label[row]][0] for row in held]]
    kind = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
    }
    more = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    optimizer = kind[config.optimizer](
        plain.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, **more
    )

    def loss(rows: Any) -> Tensor:
        each = F.binary_cross_entropy_with_logits(plain(image[rows], text[rows]), label[rows], reduction="none")
        return (each * weight[rows]).sum() / weight[rows].sum()

    lowest, best, since, epochs = np.inf, deepcopy(plain), 0, 0
    while since < config.patience and epochs < config.max_epochs:
        for rows in orders[epochs].split(config.batch_size):
            optimizer.zero_grad()
            loss(rows).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimizer.step()
        epochs += 1
        with torch.no_grad():
            value = loss(held).item()
        since += 1
        if value < lowest:
            lowest, best, since = value, deepcopy(plain), 0
    with torch.no_grad():
        return best, best(image[held], text[held]).numpy(), epochs


@pytest.mark.parametrize(
    ("optimizer", "class_weight"), [*((optimizer, False) for optimizer in OPTIMIZERS), ("adamw", True)]
)
def test_members_trained_together_are_what_a_plain_loop_trains_one_after_another(
    optimizer: str, class_weight: bool
) -> None:
    config = TrainConfig(
        optimizer,
        RATES[optimizer],
        0.01,
        batch_size=8,
        max_epochs=15,
        patience=2,
        loss=LossConfig("bce", class_weight),
        seed=3,
    )
    epochs: list[int] = []
    trained = train(HEAD, config, on_epoch=lambda epoch, _: epochs.append(epoch))

    with torch.random.fork_rng():
        torch.manual_seed(3)
        start = FusionHead(HEAD, 4)
    generator, longest = torch.Generator().manual_seed(3), 41
    orders = [[] for _ in MEMBERS]
    for _ in range(config.max_epochs):
        for order, (rows, _) in zip(orders, MEMBERS):
            drawn = torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)]
            order.append(torch.cat((drawn, drawn))[:longest])
    logits, stops = np.full((4, 61), np.nan), []
    for member, (rows, held) in enumerate(MEMBERS):
        alone, logits[member, held], stop = fit_alone(Plain(start, member), config, rows, held, orders[member])
        stops.append(stop)
        for ours, theirs in alone.pairs(trained.head, member):
            torch.testing.assert_close(ours, theirs.data, atol=1e-4, rtol=1e-4)
        assert trained.auroc[member] == pytest.approx(roc_auc_score(SUM.label[held], logits[member, held]))
    np.testing.assert_allclose(trained.logits, np.nanmean(logits, axis=0), atol=1e-4, rtol=1e-4)
    assert len(epochs) == max(stops)
    assert min(stops) < max(stops) and min(stops) < 15  # some member stopped while others went on


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    head = HeadConfig(8, 6, "align", components=4, width=16, hidden=16)
    first, same, other = (train(head, TrainConfig(learning_rate=1e-2, max_epochs=4, seed=seed)) for seed in (5, 5, 6))
    state, again = first.head.state_dict(), same.head.state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert (first.logits == same.logits).all() and (first.auroc == same.auroc).all()
    assert not torch.equal(state["output.weight"], other.head.state_dict()["output.weight"])


class Enough(Exception):
    """Stops a training."""


def test_the_global_random_state_and_threads_are_left_alone_even_when_it_is_stopped() -> None:
    state, threads, seen = torch.random.get_rng_state(), torch.get_num_threads(), []

    def on_epoch(epoch: int, value: float) -> None:
        seen.append((epoch, value))
        if epoch == 2:
            raise Enough

    with pytest.raises(Enough):
        train(HeadConfig(8, 6), TrainConfig(), on_epoch=on_epoch)
    train(HeadConfig(8, 6), TrainConfig(max_epochs=2))
    assert torch.equal(state, torch.random.get_rng_state()) and threads == torch.get_num_threads()
    assert [epoch for epoch, _ in seen] == [0, 1, 2] and all(0 <= value <= 1 for _, value in seen)


def test_on_epoch_hears_of_the_best_epochs_so_far_and_in_the_end_of_what_comes_back() -> None:
    seen: list[float] = []
    trained = train(HEAD, TrainConfig(learning_rate=3e-2, max_epochs=40), on_epoch=lambda _, value: seen.append(value))
    assert len(seen) < 40 and seen[-1] == trained.auroc.mean()
    held = [held for _, held in MEMBERS]
    with torch.inference_mode():
        logits = trained.head(torch.from_numpy(SUM.image), torch.from_numpy(SUM.text)).numpy()
    assert not trained.head.training
    assert trained.auroc == pytest.approx(
        [roc_auc_score(SUM.label[rows], logits[member, rows]) for member, rows in enumerate(held)]
    )


def relabelled(features: Features, row: int) -> Features:
    label = features.label.copy()
    label[row] = 1 - label[row]
    return dataclasses.replace(features, label=label)


def redrawn(features: Features, row: int) -> Features:
    image, text = features.image.copy(), features.text.copy()
    image[row], text[row] = -image[row], text[row] + 1
    return dataclasses.replace(features, image=image, text=text)


@pytest.mark.parametrize("change", [relabelled, redrawn])
@pytest.mark.parametrize(
    "loss", [LossConfig(), LossConfig("focal", class_weight=True), LossConfig(class_weight=True, contrastive=0.5)]
)
def test_a_meme_held_out_has_no_part_in_the_weights_and_scalings_of_its_member(change: Any, loss: LossConfig) -> None:
    """With one epoch there is none to choose, which is all that the memes held out are for."""
    head = HeadConfig(8, 6, "align", components=4, width=16, hidden=16)
    config = TrainConfig(learning_rate=1e-2, max_epochs=1, batch_size=8, loss=loss)
    before, after = train(head, config), train(head, config, change(SUM, 0))  # held out by members 0 and 3
    for member in range(4):
        one, other = weights(before, member), weights(after, member)
        assert all(torch.equal(one[name], other[name]) for name in one) is (member in (0, 3))
    if change is relabelled:
        assert (before.logits[:20:3] == after.logits[:20:3]).all()  # of the memes that those two alone hold out


def test_memes_that_no_member_holds_out_have_no_logit() -> None:
    trained = train(HEAD, TrainConfig(max_epochs=2), members=[(ROWS[:40], ROWS[45:])] * 2)
    assert np.isnan(trained.logits[:45]).all() and np.isfinite(trained.logits[45:]).all()


def test_a_training_that_never_had_a_finite_loss_says_so() -> None:
    with pytest.raises(Diverged, match="learning rate"):
        train(HEAD, TrainConfig("sgd", 1e38, max_epochs=3))


@pytest.mark.parametrize("batch_size", [8, 16, 64])
@pytest.mark.parametrize("contrastive", [0.0, 0.5])
def test_members_of_any_number_of_memes_train_beside_each_other(batch_size: int, contrastive: float) -> None:
    members = [(ROWS[:count], ROWS[50:]) for count in (8, 16, 17, 50)]
    config = TrainConfig(
        learning_rate=1e-2, batch_size=batch_size, max_epochs=3, loss=LossConfig(contrastive=contrastive)
    )
    assert np.isfinite(train(HEAD, config, members=members).logits[50:]).all()


def test_the_retrieval_guided_term_lowers_the_triplet_loss_of_the_train_memes() -> None:
    features, values = planted_features(200), []
    members = fold(features)[:1]
    rows = torch.from_numpy(members[0][0])
    label = torch.from_numpy(features.label)[rows]
    for contrastive in (0.0, 5.0):
        config = TrainConfig(learning_rate=3e-3, max_epochs=15, loss=LossConfig(contrastive=contrastive))
        head = train(HeadConfig(8, 6, "concat", hidden=16, dropout=0.0), config, features, members).head
        with torch.inference_mode():
            sides = head.scale(*(torch.from_numpy(vectors)[rows] for vectors in (features.image, features.text)))
            embedded = head.embed(sides)
        alike, other = label[:, None] == label, ~torch.eye(len(rows), dtype=torch.bool)
        similarity = cosines(embedded, embedded)
        like, unlike = (embedded[0, nearest(similarity, which[None])[0]] for which in (alike & other, ~alike))
        values.append(retrieval_loss(embedded, like[None], unlike[None], label[None].float()).item())
    assert values[1] < 0.5 * values[0]


def test_an_epoch_of_a_large_set_is_a_fresh_sample_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EPOCH_MEMES", 20)
    batches: list[Tensor] = []
    embed = FusionHead.embed

    def counted(head: FusionHead, sides: dict[str, Tensor]) -> Tensor:
        if head.training:
            batches.append(sides["image"][0])
        return embed(head, sides)

    monkeypatch.setattr(FusionHead, "embed", counted)
    train(HEAD, TrainConfig(batch_size=8, max_epochs=3))
    assert [len(batch) for batch in batches] == [8, 8, 4] * 3
    epochs = [{tuple(row) for row in torch.cat(batches[start : start + 3]).tolist()} for start in (0, 3, 6)]
    assert [len(epoch) for epoch in epochs] == [20] * 3 and len(set.union(*epochs)) > 30


@pytest.mark.parametrize("contrastive", [0.0, 0.5])
def test_predicting_some_rows_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch, contrastive: float) -> None:
    config = TrainConfig(learning_rate=1e-2, max_epochs=3, loss=LossConfig(contrastive=contrastive))
    whole = train(HEAD, config)
    monkeypatch.setattr(module, "_PREDICT_ROWS", 7)
    np.testing.assert_allclose(train(HEAD, config).logits, whole.logits, atol=1e-5)


def test_a_large_set_held_out_is_judged_by_a_part_and_scored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MONITORED_MEMES", 8)
    trained = train(HEAD, TrainConfig(learning_rate=1e-2, max_epochs=3))
    with torch.inference_mode():
        logits = trained.head(torch.from_numpy(SUM.image), torch.from_numpy(SUM.text)).numpy()
    for member, (_, held) in enumerate(MEMBERS):
        judges = held[np.argsort(SUM.label[held], kind="stable")][::3]  # every third is at most eight
        assert trained.auroc[member] == pytest.approx(roc_auc_score(SUM.label[judges], logits[member, judges]))
    expected = [np.mean([logits[m, row] for m, (_, held) in enumerate(MEMBERS) if row in held]) for row in ROWS]
    np.testing.assert_allclose(trained.logits, expected, atol=1e-5)


def test_neighbours_of_a_large_set_come_from_a_part_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    banks: list[int] = []
    own: list[Tensor] = []

    def counted(similarity: Tensor, allowed: Tensor) -> Tensor:
        assert allowed.shape == similarity.shape
        if similarity.shape[1] == similarity.shape[2] and torch.allclose(similarity, similarity.mT):
            assert not allowed.diagonal(dim1=1, dim2=2).any()  # no meme is its own neighbour
            own.append(similarity)
        banks.append(similarity.shape[2])
        return nearest(similarity, allowed)

    monkeypatch.setattr(module, "_BANK_MEMES", 15)
    monkeypatch.setattr(module, "nearest", counted)
    train(HEAD, TrainConfig(max_epochs=2, loss=LossConfig(contrastive=0.5)))
    assert len(own) == 2 * 2  # the part that is the bank, in each epoch and kind
    assert set(banks) == {15} and len(banks) == 2 * 2 * 3  # epochs, kinds, parts of 41 memes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sum_is_learnt_with_each_optimizer(optimizer: str) -> None:
    features = planted_features(300)
    config = TrainConfig(optimizer, RATES[optimizer] / 4, max_epochs=10)
    trained = train(HeadConfig(8, 6, "concat", width=16, hidden=16), config, features, members=fold(features))
    assert trained.auroc.mean() > 0.85


def fold(features: Features) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.flatnonzero(features.split == "train"), np.flatnonzero(features.split == "validation"))] * 2


def test_align_and_cross_find_a_label_that_only_the_product_of_the_sides_carries() -> None:
    features = planted_features(1200, kind="product")
    data = TrainingSet(features, fold(features), CPU)
    reached = {}
    for fusion, depth in (("align", 1), ("cross", 1), ("concat", 0), ("linear", 0), ("image", 1), ("text", 1)):
        head = HeadConfig(8, 6, fusion, width=64, depth=depth, hidden=64, map_dropout=0.1, dropout=0.1)
        reached[fusion] = train_head(head, TrainConfig(learning_rate=5e-3), data).auroc.mean()
    assert min(reached.pop("align"), reached.pop("cross")) > 0.8
    assert max(reached.values()) < 0.65


def inner_products(pairs: int, dim: int) -> tuple[Features, float]:
    """1,500 memes whose label follows the product of `pairs` numbers of each side, no side telling anything alone; and
    the AUROC of who knows them."""
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(2, 1500, dim)).astype(np.float32)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) * np.sqrt(dim) for side in (image, text)]
    signal = (unit[0] * unit[1])[:, :pairs].sum(axis=1) / np.sqrt(pairs)
    label = (generator.random(1500) < 1 / (1 + np.exp(-6 * signal))).astype(np.int64)
    ids, split = np.arange(1500).astype(str), np.full(1500, "train")
    features = Features(ids, image, text, label, split, np.arange(1500), np.full(1500, ""))
    return features, auroc(label, signal) or 0.0


@pytest.mark.parametrize(("pairs", "dim", "lead"), [(4, 8, 0.005), (8, 16, 0.1)])
def test_products_come_near_the_planted_optimum_and_beat_what_has_none(pairs: int, dim: int, lead: float) -> None:
    features, optimum = inner_products(pairs, dim)
    held = np.arange(1500) % 3 == 0
    data = TrainingSet(features, [(np.flatnonzero(~held), np.flatnonzero(held))], CPU)

    def reached(fusion: str, depth: int) -> float:
        head = HeadConfig(dim, dim, fusion, width=32, depth=depth, hidden=64, map_dropout=0.0, dropout=0.05)
        train_config = TrainConfig(learning_rate=1e-2, batch_size=64, max_epochs=60, patience=8)
        return train_head(head, train_config, data).auroc[0]

    products = [reached("align", 0), reached("cross", 0)]
    others = [reached("concat", 1), reached("concat", 2), reached("linear", 0), reached("image", 1), reached("text", 1)]
    assert min(products) > max(others) + lead
    if pairs == 4:  # twice the pairs among twice the numbers want more memes than these
        assert min(products) > optimum - 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0},
        {"weight_decay": float("inf")}, {"batch_size": 0}, {"batch_size": 8.0}, {"max_epochs": 0}, {"patience": 0},
        {"seed": -1},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected .* got"):
        TrainConfig(**wrong)


def test_settings_come_back_from_their_dictionary() -> None:
    config = TrainConfig("sgd", 0.3, loss=LossConfig("focal", smoothing=0.1), seed=4)
    assert TrainConfig.from_dict(dataclasses.asdict(config)) == config


def test_where_labels_alternate_a_part_of_those_held_out_keeps_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MONITORED_MEMES", 10)
    features = dataclasses.replace(SUM, label=ROWS % 2)
    data = TrainingSet(features, [(ROWS[:41], ROWS[41:])], CPU)
    assert data.label[data.monitored].sum() == 5 and data.monitored.shape == (1, 10)
    thin = thinned(torch.arange(1000), 100)
    assert len(thin) == 100 and 30 < (thin % 2).sum() < 70 and torch.equal(thin, thinned(torch.arange(1000), 100))
    assert (thin.diff() > 0).all() and torch.equal(thinned(thin, 100), thin)


def test_for_each_part_the_value_is_that_of_the_memes_of_other_parts() -> None:
    """Members hold out whole parts, or some of several."""
    parts = np.where(ROWS % 3 < 2, ROWS % 3, -1)
    members = [*MEMBERS[:3], (ROWS[30:], ROWS[:30])]
    config = TrainConfig(learning_rate=1e-2, max_epochs=3)
    trained = train_head(HEAD, config, TrainingSet(SUM, members, CPU, parts))
    with torch.inference_mode():
        logits = trained.head(torch.from_numpy(SUM.image), torch.from_numpy(SUM.text)).numpy()
    assert trained.without.shape == (2,)
    for part, value in enumerate(trained.without):
        others = [(member, held[parts[held] != part]) for member, (_, held) in enumerate(members)]
        figures = [roc_auc_score(SUM.label[rows], logits[member, rows]) for member, rows in others if len(rows)]
        assert len(figures) == 3 and value == pytest.approx(np.mean(figures))
