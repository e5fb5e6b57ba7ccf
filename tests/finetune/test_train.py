"""The training of last blocks and heads: what it keeps, when it stops, and that a stopped one goes on as if it had not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import interrupted
from safetensors.torch import load_file
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from finetune.checkpoint import Checkpoint
from finetune.train import (
    FinetuneConfig,
    LabelledRows,
    Model,
    Run,
    Split,
    cross_fitted_logits,
    train_rates,
    usual_rates,
)
from head.judge.calibration import Calibration
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FusionHead, HeadConfig

COUNT, DIM = 96, 6
CALIBRATION = Calibration("platt", 1.5, -0.2)


class Encoder:
    """Vectors of which a linear map learns, and in which the label hides."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.vectors = torch.randn(COUNT, DIM, generator=generator)
        self.label = (self.vectors[:, 0] > 0).numpy().astype(np.int64)
        self.map = nn.Parameter(torch.eye(DIM))

    def features(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.vectors[rows] @ self.map, self.vectors[rows]


class Case:
    """A fresh encoder, head and checkpoint."""

    def __init__(self, folder: Path, identity: dict[str, Any] | None = None) -> None:
        self.encoder = Encoder()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            config = HeadConfig(DIM, DIM, "concat", components=0, width=8, hidden=8)
            self.ensemble = HeadEnsemble([FusionHead(config)], [1.0])
        self.weights = {"encoder/map": self.encoder.map, **dict(self.ensemble.named_parameters())}
        self.model = Model(self.encoder, self.ensemble, CALIBRATION, self.weights)
        self.folder, self.identity = folder, identity or {}
        self.checkpoint = Checkpoint(folder, self.identity)
        rows = np.arange(COUNT)
        self.train, self.validation = (
            LabelledRows(rows[part], self.encoder.label[part]) for part in (rows < 64, rows >= 64)
        )
        self.said: list[str] = []

    def run(self, **settings: Any) -> Run:
        return self.run_all([0.01], **settings)[0]

    def run_all(self, rates: list[float], **settings: Any) -> list[Run]:
        configs = [FinetuneConfig(**{"learning_rate": rate, "batch_size": 16, **settings}) for rate in rates]
        trainings = [(config, Checkpoint(self.folder, self.identity, at)) for at, config in enumerate(configs)]
        return train_rates(self.model, Split(self.train, self.validation), trainings, self.said.append)


def test_the_best_epoch_is_kept_and_its_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    case = Case(tmp_path)
    start = {name: weight.detach().clone() for name, weight in case.weights.items()}
    trained = case.run()
    losses = [entry["validation_loss"] for entry in trained.history]
    assert 0 < trained.best_epoch == int(np.argmin(losses)) and len(case.said) == len(losses)
    assert all(not torch.equal(start[name], weight) for name, weight in case.weights.items())
    with torch.no_grad():
        logits = case.ensemble.eval()(*case.encoder.features(case.validation.rows))
    chances = CALIBRATION(logits.numpy())
    best = trained.history[trained.best_epoch]
    assert best["validation_loss"] == pytest.approx(log_loss(case.validation.label, chances), rel=1e-5)
    assert best["validation_auroc"] == pytest.approx(roc_auc_score(case.validation.label, chances))
    assert best["train_loss"] < trained.history[1]["train_loss"] and trained.history[0]["train_loss"] is None


def test_where_nothing_gets_better_the_start_is_left_as_it_was(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.run()
    case.checkpoint.discard()
    start = {name: weight.detach().clone() for name, weight in case.weights.items()}
    case.validation = LabelledRows(case.validation.rows, 1 - case.validation.label)  # what is learnt is wrong there
    trained = case.run(epochs=2)
    assert trained.best_epoch == 0 and len(trained.history) == 3
    assert all(torch.equal(start[name], weight) for name, weight in case.weights.items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    maps = []
    for number, seed in enumerate((0, 0, 1)):
        case, before = Case(tmp_path / str(number)), torch.random.get_rng_state()
        case.run(seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        maps.append(case.encoder.map.detach())
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("at", [3, 6, 10])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Case(tmp_path / "whole")
    expected = whole.run()
    first = Case(tmp_path / "stopped")
    stopping, _ = interrupted(first.model.logits, at)
    first.model.logits = stopping  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Case(tmp_path / "stopped")
    again, calls = interrupted(second.model.logits, 0)
    second.model.logits = again  # type: ignore[method-assign]
    trained = second.run()
    assert trained.history == expected.history and trained.best_epoch == expected.best_epoch
    for name, weight in second.weights.items():
        assert torch.equal(weight, whole.weights[name]), name
    finished = (at - 2) // 5  # a batch judges the start; an epoch is four batches and one that judges
    assert len(calls) == 5 * (4 - finished) + (finished == 0)


def test_another_training_does_not_go_on_from_there(tmp_path: Path) -> None:
    first = Case(tmp_path, {"version": "a"})
    first.run(epochs=1)
    assert first.checkpoint.read() is not None
    second = Case(tmp_path, {"version": "b"})
    assert second.checkpoint.read() is None
    assert len(second.run(epochs=2).history) == 3


def test_a_damaged_checkpoint_begins_anew(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.run(epochs=1)
    data = case.checkpoint.file.read_bytes()
    case.checkpoint.file.write_bytes(data[: len(data) // 2])
    assert case.checkpoint.read() is None
    case.checkpoint.file.write_bytes(data)
    assert case.checkpoint.read() is not None and load_file(case.checkpoint.file)
    case.checkpoint.discard()
    assert not tmp_path.exists()


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    case = Case(tmp_path)
    trained = case.run_all([1e30], epochs=1)[0]
    assert trained.best_epoch == 0 and trained.history[1]["validation_loss"] is None
    json.dumps(trained.history, allow_nan=False)
    assert torch.isfinite(case.encoder.map).all()


def test_the_rate_rises_and_then_falls_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    stepping: Callable[..., Any] = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *given: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return stepping(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    Case(tmp_path).run_all([0.02], epochs=5)
    assert len(rates) == 20 and np.argmax(rates) in (1, 2) and max(rates) == pytest.approx(0.02)
    assert rates[0] == pytest.approx(0.01) and 0 < rates[-1] < 0.001 and np.all(np.diff(rates[2:]) < 0)


def test_of_several_rates_validation_chooses_and_each_begins_at_the_start(tmp_path: Path) -> None:
    alone = [Case(tmp_path / str(rate)).run_all([rate])[0] for rate in (0.001, 0.01, 0.03)]
    case = Case(tmp_path / "all")
    runs = case.run_all([0.001, 0.01, 0.03])
    assert [run.loss for run in runs] == sorted(run.loss for run in alone) and runs[0].loss < runs[1].loss
    assert {run.config.learning_rate: run.history for run in runs} == {
        run.config.learning_rate: run.history for run in alone
    }
    assert all(torch.equal(weight, runs[0].best[name]) for name, weight in case.weights.items())


def test_a_part_of_validation_is_scored_after_the_epoch_that_the_others_choose(tmp_path: Path) -> None:
    case = Case(tmp_path)
    runs, label = case.run_all([0.01, 0.1]), case.validation.label
    part = np.where(np.arange(32) % 8 < 7, np.arange(32) % 3, -1)
    found = cross_fitted_logits(runs, label, part)
    assert np.isnan(found[part == -1]).all()
    all_logits = [logits for run in runs for logits in run.logits]
    for one in range(3):
        others = part != one
        losses = [log_loss(label[others], 1 / (1 + np.exp(-logits[others]))) for logits in all_logits]
        assert (found[part == one] == all_logits[int(np.argmin(losses))][part == one]).all()
        turned = cross_fitted_logits(runs, np.where(part == one, 1 - label, label), part)
        assert (turned[part == one] == found[part == one]).all()  # its own labels have no say


@pytest.mark.parametrize(("width", "rates"), [(1024, [2.9e-6, 9.8e-6, 2.9e-5]), (96, [3.1e-5, 1e-4, 3.1e-4])])
def test_the_usual_rates_fall_with_the_encoders_width(width: int, rates: list[float]) -> None:
    assert usual_rates(width) == rates


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"learning_rate": 0.1, "weight_decay": -1.0}, "weight_decay: expected"),
        ({"learning_rate": 0.1, "epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"learning_rate": 0.1, "seed": -1}, "seed: expected"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FinetuneConfig(**wrong)
