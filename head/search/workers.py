"""Parallel jobs, in this process or in worker processes that each keep the memes in memory.

A pool hands jobs to idle workers; a running job can ask whether to continue. Used for the trials of a round
(`head.search.study`) and for fits (`head.fitting`).
"""

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
import torch

from cache import raised_here
from head.data.features import Features
from head.data.folds import Members
from head.model.fusion import HeadConfig
from head.model.training import Diverged, TrainConfig, TrainingSet, train_head

Settings = tuple[HeadConfig, TrainConfig]

GoOn = Callable[[int, int, float], bool]
"""Called with the index of a training in its round, the epoch and the mean AUROC so far; False stops the training."""

Ask = Callable[..., bool]
"""Called by a running job: whether to continue."""


class WorkerLost(ValueError):
    """A worker process ended without a result."""


class Stopped(Exception):
    """`GoOn` returned False."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """auroc: (M,) of the members, None if the training was stopped, diverged or ran out of GPU memory; without: (P,) as in
    `head.model.training.Trained`; seconds: of the training."""

    auroc: np.ndarray | None
    without: np.ndarray
    seconds: float


class Pool(Protocol):
    """Runs jobs."""

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each job, as they finish. answer: called with a job's index and what it passes to `Ask`."""


@contextmanager
def open_pool(begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any], workers: int) -> Iterator[Pool]:
    """begin: makes a worker's state; run(state, job, ask): does one job. One worker runs in this process; several have a process
    each, and functions, jobs and results are pickled."""
    if workers == 1:
        yield _Inline(begin(), run)
        return
    started = [_Worker(begin, run) for _ in range(workers)]
    try:
        yield _Processes(started)
    finally:
        for worker in started:
            worker.stop()


@dataclass(frozen=True)
class Trainer:
    """Trains rounds of settings."""

    pool: Pool

    def train(self, settings: Sequence[Settings], go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        """(index, outcome) of each of the settings, as they finish."""
        return self.pool.deal(settings, go_on)


@contextmanager
def open_trainer(
    features: Features, members: Members, device: torch.device, jobs: int, parts: np.ndarray | None = None
) -> Iterator[Trainer]:
    """A trainer for these memes, members and parts, with `jobs` workers."""
    with open_pool(partial(TrainingSet, features, members, device, parts), _train, jobs) as pool:
        yield Trainer(pool)


class _Inline:
    def __init__(self, state: Any, run: Callable[[Any, Any, Ask], Any]) -> None:
        self._state, self._run = state, run

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            yield number, self._run(self._state, job, partial(answer, number))


class _Processes:
    """Hands jobs to idle workers."""

    def __init__(self, workers: "list[_Worker]") -> None:
        self._workers = workers

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        waiting = list(enumerate(jobs))[::-1]
        busy: dict[Connection, tuple[_Worker, int]] = {}
        for worker in self._workers[: len(waiting)]:
            busy[worker.pipe] = worker, worker.begin(waiting.pop())
        while busy:
            for pipe in wait(list(busy)):
                worker, number = busy[pipe]  # type: ignore[index]  # the stub of `wait` loses the type
                kind, value = worker.receive()
                if kind == "asks":
                    worker.send(answer(number, *value))
                    continue
                if waiting:
                    busy[worker.pipe] = worker, worker.begin(waiting.pop())
                else:
                    del busy[worker.pipe]
                yield number, value


class _Worker:
    """A spawned process: torch's threads do not survive a fork."""

    def __init__(self, begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, begin, run), daemon=True)
        self._process.start()
        other.close()

    def begin(self, job: tuple[int, Any]) -> int:
        number, what = job
        self.send(what)
        return number

    def send(self, what: Any) -> None:
        with suppress(ConnectionError):  # `receive` raises WorkerLost
            self.pipe.send(what)

    def receive(self) -> tuple[str, Any]:
        try:
            kind, value = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise WorkerLost(
                f"a worker process ended with exit code {self._process.exitcode} before its work was done; if "
                "memory is short, use fewer of them: JOBS=1"
            ) from error
        if kind == "error":
            raise value
        return kind, value

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any]) -> None:
    """Main loop of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(1)
    state = begin()

    def send(kind: str, value: Any) -> None:
        # as bytes: `pipe.send` passes tensors through shared memory, which is small in a container
        pipe.send_bytes(pickle.dumps((kind, value)))

    def ask(*what: Any) -> bool:
        send("asks", what)
        return pipe.recv()

    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                send("done", run(state, job, ask))
            except (ValueError, RuntimeError, MemoryError) as error:
                # the traceback of an unexpected error would be lost in pickling
                send("error", error if raised_here(error) else RuntimeError(traceback.format_exc()))


def _train(data: TrainingSet, settings: Settings, ask: Ask) -> Outcome:
    def on_epoch(epoch: int, value: float) -> None:
        if not ask(epoch, value):
            raise Stopped

    started, nothing = time.monotonic(), np.empty(0)
    try:
        trained = train_head(*settings, data, on_epoch)
    except (Stopped, Diverged):
        return Outcome(None, nothing, time.monotonic() - started)
    except torch.OutOfMemoryError:  # of a GPU: only this trial is lost, others may be smaller
        torch.cuda.empty_cache()
        return Outcome(None, nothing, time.monotonic() - started)
    return Outcome(trained.auroc, trained.without, time.monotonic() - started)
