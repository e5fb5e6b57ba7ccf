"""Work side by side: in this process, or in worker processes that each keep the memes in memory.

A pool deals jobs to whichever worker is free; a job may ask whether to go on. `head.search.study` has the trials of a round
trained by one, `head.fitting` the best ones fitted by another. It keeps no heads and knows nothing of studies.
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
"""Called with the number of a training in its round, the epoch and the mean AUROC so far; False stops it."""

Ask = Callable[..., bool]
"""What a job may ask while it runs: whether to go on."""


class WorkerLost(ValueError):
    """A worker process ended without an answer."""


class Stopped(Exception):
    """`GoOn` said no."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """auroc: (M,) of the members, None where the training was stopped, diverged or did not fit into a GPU's memory;
    without: (P,) see `head.model.training.Trained`; seconds: that it took."""

    auroc: np.ndarray | None
    without: np.ndarray
    seconds: float


class Pool(Protocol):
    """Does jobs."""

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        """(number, result) of each of the jobs, as they end. answer: called with a job's number and what it asks."""


@contextmanager
def open_pool(begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any], workers: int) -> Iterator[Pool]:
    """begin: makes what a worker keeps; run: does one job with that. With one worker all happens in this process; with
    more, each has a process, and both functions, jobs and results are pickled on their way."""
    if workers == 1:
        yield _Inline(begin(), run)
        return
    hired = [_Worker(begin, run) for _ in range(workers)]
    try:
        yield _Processes(hired)
    finally:
        for worker in hired:
            worker.stop()


@dataclass(frozen=True)
class Trainer:
    """Trains rounds of settings."""

    pool: Pool

    def train(self, settings: Sequence[Settings], go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        """(number, outcome) of each of the settings, as they end."""
        return self.pool.deal(settings, go_on)


@contextmanager
def open_trainer(
    features: Features, members: Members, device: torch.device, jobs: int, parts: np.ndarray | None = None
) -> Iterator[Trainer]:
    """A trainer for memes, their members' shares and their parts; with one job it works in this process."""
    with open_pool(partial(TrainingSet, features, members, device, parts), _train, jobs) as pool:
        yield Trainer(pool)


class _Inline:
    def __init__(self, kept: Any, run: Callable[[Any, Any, Ask], Any]) -> None:
        self._kept, self._run = kept, run

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            yield number, self._run(self._kept, job, partial(answer, number))


class _Processes:
    """Deals jobs out to whichever worker is free."""

    def __init__(self, workers: "list[_Worker]") -> None:
        self._workers = workers

    def deal(self, jobs: Sequence[Any], answer: Callable[..., bool]) -> Iterator[tuple[int, Any]]:
        waiting = list(enumerate(jobs))[::-1]
        busy: dict[Connection, tuple[_Worker, int]] = {}
        for worker in self._workers[: len(waiting)]:
            busy[worker.pipe] = worker, worker.begin(waiting.pop())
        while busy:
            for pipe in wait(list(busy)):
                worker, number = busy[pipe]  # type: ignore[index]  # the stub of `wait` forgets of what kind they were
                kind, value = worker.hear()
                if kind == "asks":
                    worker.say(answer(number, *value))
                    continue
                if waiting:
                    busy[worker.pipe] = worker, worker.begin(waiting.pop())
                else:
                    del busy[worker.pipe]
                yield number, value


class _Worker:
    """One process, begun afresh: torch's threads do not survive a fork."""

    def __init__(self, begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, begin, run), daemon=True)
        self._process.start()
        other.close()

    def begin(self, job: tuple[int, Any]) -> int:
        number, what = job
        self.say(what)
        return number

    def say(self, what: Any) -> None:
        with suppress(ConnectionError):  # `hear` finds out and says it
            self.pipe.send(what)

    def hear(self) -> tuple[str, Any]:
        try:
            kind, value = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise WorkerLost(
                f"a worker process ended with exit code {self._process.exitcode} before its work did; where memory "
                "is short, use fewer of them: JOBS=1"
            ) from error
        if kind == "error":
            raise value
        return kind, value

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, begin: Callable[[], Any], run: Callable[[Any, Any, Ask], Any]) -> None:
    """A worker's whole life: jobs in, questions and a result out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(1)
    kept = begin()

    def say(kind: str, value: Any) -> None:
        # as plain bytes: `send` takes tensors through shared memory, of which a container has little
        pipe.send_bytes(pickle.dumps((kind, value)))

    def ask(*what: Any) -> bool:
        say("asks", what)
        return pipe.recv()

    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                say("done", run(kept, job, ask))
            except (ValueError, RuntimeError, MemoryError) as error:
                # a mistake's traceback would be lost on the way
                say("error", error if raised_here(error) else RuntimeError(traceback.format_exc()))


def _train(data: TrainingSet, settings: Settings, ask: Ask) -> Outcome:
    def on_epoch(epoch: int, value: float) -> None:
        if not ask(epoch, value):
            raise Stopped

    began, nothing = time.monotonic(), np.empty(0)
    try:
        trained = train_head(*settings, data, on_epoch)
    except (Stopped, Diverged):
        return Outcome(None, nothing, time.monotonic() - began)
    except torch.OutOfMemoryError:  # a GPU's: another trial may be smaller, so this one alone is lost
        torch.cuda.empty_cache()
        return Outcome(None, nothing, time.monotonic() - began)
    return Outcome(trained.auroc, trained.without, time.monotonic() - began)
