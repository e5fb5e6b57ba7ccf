import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fakes import planted_features
from machine import PATIENCE

from head.model.fusion import HeadConfig
from head.model.training import TrainConfig, TrainingSet, train_head
from head.search import workers
from head.search.workers import GoOn, Outcome, Trainer, WorkerLost, open_trainer

CPU = torch.device("cpu")
FEATURES = planted_features(60)
ROWS = np.arange(60)
MEMBERS = [(np.flatnonzero(ROWS % 3 != fold), np.flatnonzero(ROWS % 3 == fold)) for fold in range(3)]
PARTS = ROWS % 2


def settings(fusion: str = "align", **more: Any) -> tuple[HeadConfig, TrainConfig]:
    config = {"learning_rate": 1e-2, "max_epochs": 4, **more}
    return HeadConfig(8, 6, fusion, components=4, width=8, hidden=8), TrainConfig(**config)


def go_on(number: int, epoch: int, value: float) -> bool:
    return True


def outcomes(trainer: Trainer, round_: list[Any], go_on: GoOn = go_on) -> list[Outcome]:
    found = dict(trainer.train(round_, go_on))
    assert len(found) == len(round_)
    return [found[number] for number in range(len(round_))]


@pytest.fixture(scope="module")
def inline() -> Iterator[Trainer]:
    with open_trainer(FEATURES, MEMBERS, CPU, 1, PARTS) as trainer:
        yield trainer


@pytest.fixture(scope="module")
def two() -> Iterator[Trainer]:
    with open_trainer(FEATURES, MEMBERS, CPU, 2, PARTS) as trainer:
        yield trainer
    assert not multiprocessing.active_children()


@pytest.fixture(params=["inline", "two"])
def trainer(request: pytest.FixtureRequest) -> Trainer:
    return request.getfixturevalue(request.param)


def test_two_processes_give_exactly_what_one_gives(inline: Trainer, two: Trainer) -> None:
    round_ = [settings(fusion) for fusion in ("align", "cross", "image", "linear", "combiner")]
    heard: dict[str, list[tuple[int, int, float]]] = {"inline": [], "two": []}

    def listen(name: str) -> GoOn:
        return lambda *epoch: heard[name].append(epoch) or True

    ours, theirs = outcomes(inline, round_, listen("inline")), outcomes(two, round_, listen("two"))
    assert sorted(heard["two"]) == heard["inline"]  # which of two is heard first does not matter
    for one, other in zip(ours, theirs):
        assert (one.auroc == other.auroc).all() and one.seconds > 0 and other.seconds > 0
        assert (one.without == other.without).all() and one.without.shape == (2,)


def test_a_training_that_is_to_go_no_further_stops_and_the_others_go_on(trainer: Trainer) -> None:
    epochs: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def prune(number: int, epoch: int, value: float) -> bool:
        assert 0 <= value <= 1
        epochs[number].append(epoch)
        return (number, epoch) != (1, 2)

    first, pruned, last = outcomes(trainer, [settings(seed=seed) for seed in range(3)], prune)
    assert pruned.auroc is None and epochs == {0: [0, 1, 2, 3], 1: [0, 1, 2], 2: [0, 1, 2, 3]}
    assert first.auroc.shape == last.auroc.shape == (3,)


def test_a_training_that_diverges_has_no_figure(trainer: Trainer) -> None:
    diverged, fine = outcomes(trainer, [settings(optimizer="sgd", learning_rate=1e38), settings()])
    assert diverged.auroc is None and fine.auroc is not None


def test_an_error_reaches_the_caller_and_the_next_round_is_trained(trainer: Trainer) -> None:
    other_vectors = HeadConfig(8, 7), TrainConfig(max_epochs=1)
    with pytest.raises(RuntimeError, match="size|shape"):
        outcomes(trainer, [other_vectors])
    assert outcomes(trainer, [settings()])[0].auroc is not None


def test_a_gpu_without_memory_costs_the_trial_and_not_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(head: HeadConfig, *more: Any) -> Any:
        if head.width == 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return train_head(head, *more)

    monkeypatch.setattr(workers, "train_head", hungry)
    with open_trainer(FEATURES, MEMBERS, CPU, jobs=1) as trainer:
        wide = replace(settings()[0], width=64), settings()[1]
        lost, kept = outcomes(trainer, [wide, settings()])
    assert lost.auroc is None and kept.auroc is not None


def test_a_round_of_nothing_is_over_at_once(trainer: Trainer) -> None:
    assert outcomes(trainer, []) == []


def test_a_lost_worker_is_named_and_no_process_is_left(two: Trainer) -> None:
    others = set(multiprocessing.active_children())

    def kill(number: int, epoch: int, value: float) -> bool:
        for process in set(multiprocessing.active_children()) - others:
            os.kill(process.pid, signal.SIGKILL)
        return True

    lost = pytest.raises(WorkerLost, match="exit code -9 .*JOBS=1")
    with lost, open_trainer(FEATURES, MEMBERS, CPU, jobs=2) as trainer:
        outcomes(trainer, [settings(), settings()], go_on=kill)
    assert set(multiprocessing.active_children()) == others


@pytest.mark.parametrize("unread", [False, True])
def test_a_worker_whose_parent_is_gone_ends_without_a_word(capfd: pytest.CaptureFixture[str], unread: bool) -> None:
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    pipe, parent = multiprocessing.Pipe()
    parent.send(settings())
    gone = threading.Thread(target=lambda: (unread and parent.poll(PATIENCE), parent.close()))
    try:
        gone.start()
        workers._work(pipe, partial(TrainingSet, FEATURES, MEMBERS, CPU), workers._train)
    finally:
        signal.signal(signal.SIGINT, handler)
        torch.set_num_threads(threads)
        gone.join()
        pipe.close()
    assert capfd.readouterr() == ("", "")
