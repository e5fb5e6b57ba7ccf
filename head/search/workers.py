"""Trainings side by side: in this process, or in worker processes that each keep the memes in memory.

It trains what it is given and asks after each epoch whether to go on; it knows nothing of studies. `head.search.study` uses
it for the trials of a round, and `head.pipeline` to train the best ones again.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
import torch

from head.data.features import Features
from head.data.folds import Members
from head.model.fusion import FusionHead, HeadConfig
from head.model.training import Diverged, TrainConfig, Trained, TrainingSet, train_head

Settings = tuple[HeadConfig, TrainConfig]

GoOn = Callable[[int, int, float], bool]
"""Called with the number of a training in its round, the epoch and the mean AUROC so far; False stops it."""


class WorkerLost(ValueError):
    """A worker process ended without an answer."""


class Stopped(Exception):
    """`GoOn` said no."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """auroc: (M,) of the members, None where the training was stopped, diverged or did not fit into a GPU's memory;
    seconds: that it took; trained: where it was asked for."""

    auroc: np.ndarray | None
    seconds: float
    trained: Trained | None = None


class Trainer(Protocol):
    """Trains rounds of settings."""

    def train(self, settings: Sequence[Settings], keep: bool, go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        """(number, outcome) of each of the settings, as they end; `keep` asks for the heads themselves."""


@contextmanager
def open_trainer(features: Features, members: Members, device: torch.device, jobs: int) -> Iterator[Trainer]:
    """A trainer for memes and their members' shares; with one job it works in this process."""
    if jobs == 1:
        yield _Inline(TrainingSet(features, members, device))
        return
    workers = [_Worker(features, members, device) for _ in range(jobs)]
    try:
        yield _Processes(workers)
    finally:
        for worker in workers:
            worker.stop()


class _Inline:
    def __init__(self, data: TrainingSet) -> None:
        self._data = data

    def train(self, settings: Sequence[Settings], keep: bool, go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        for number, one in enumerate(settings):
            outcome = _train(one, self._data, keep, partial(go_on, number))
            # a head of its own on the CPU, as from a worker: the trained one shares its scalings with the next
            yield number, _unpacked(one, _packed(outcome))


class _Processes:
    """Deals a round's trainings out to whichever worker is free."""

    def __init__(self, workers: "list[_Worker]") -> None:
        self._workers = workers

    def train(self, settings: Sequence[Settings], keep: bool, go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        waiting = list(enumerate(settings))[::-1]
        busy: dict[Connection, tuple[_Worker, int]] = {}
        for worker in self._workers[: len(waiting)]:
            busy[worker.pipe] = worker, worker.begin(waiting.pop(), keep)
        while busy:
            for pipe in wait(list(busy)):
                worker, number = busy[pipe]  # type: ignore[index]  # the stub of `wait` forgets of what kind they were
                kind, value = worker.hear()
                if kind == "epoch":
                    worker.say(go_on(number, *value))
                    continue
                if waiting:
                    busy[worker.pipe] = worker, worker.begin(waiting.pop(), keep)
                else:
                    del busy[worker.pipe]
                yield number, _unpacked(settings[number], value)


class _Worker:
    """One process, begun afresh: torch's threads do not survive a fork."""

    def __init__(self, features: Features, members: Members, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, features, members, device), daemon=True)
        self._process.start()
        other.close()

    def begin(self, job: tuple[int, Settings], keep: bool) -> int:
        number, settings = job
        self.say((settings, keep))
        return number

    def say(self, what: Any) -> None:
        with suppress(ConnectionError):  # `hear` finds out and says it
            self.pipe.send(what)

    def hear(self) -> tuple[str, Any]:
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise WorkerLost(
                f"a worker process ended with exit code {self._process.exitcode} before its training did; where memory "
                "is short, use fewer of them: JOBS=1"
            ) from error
        if kind == "error":
            raise value
        return kind, value

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, features: Features, members: Members, device: torch.device) -> None:
    """A worker's whole life: settings in, epochs and an outcome out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(1)
    data = TrainingSet(features, members, device)

    def go_on(epoch: int, value: float) -> bool:
        pipe.send(("epoch", (epoch, value)))
        return pipe.recv()

    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            settings, keep = pipe.recv()
            try:
                pipe.send(("done", _packed(_train(settings, data, keep, go_on))))
            except (ValueError, RuntimeError, MemoryError) as error:
                pipe.send(("error", error))


def _train(settings: Settings, data: TrainingSet, keep: bool, go_on: Callable[[int, float], bool]) -> Outcome:
    def on_epoch(epoch: int, value: float) -> None:
        if not go_on(epoch, value):
            raise Stopped

    began = time.monotonic()
    try:
        trained = train_head(*settings, data, on_epoch)
    except (Stopped, Diverged):
        return Outcome(None, time.monotonic() - began)
    except torch.OutOfMemoryError:  # a GPU's: another trial may be smaller, so this one alone is lost
        torch.cuda.empty_cache()
        return Outcome(None, time.monotonic() - began)
    return Outcome(trained.auroc, time.monotonic() - began, trained if keep else None)


def _packed(outcome: Outcome) -> tuple[Any, ...]:
    """As arrays: tensors would travel through shared memory, of which a container has little."""
    if outcome.trained is None:
        return outcome.auroc, outcome.seconds
    state = {name: value.cpu().numpy() for name, value in outcome.trained.head.state_dict().items()}
    return outcome.auroc, outcome.seconds, outcome.trained.logits, state


def _unpacked(settings: Settings, parts: tuple[Any, ...]) -> Outcome:
    if len(parts) == 2:
        return Outcome(*parts)
    auroc, seconds, logits, state = parts
    head = FusionHead(settings[0], len(auroc))
    head.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return Outcome(auroc, seconds, Trained(head.eval(), auroc, logits))
