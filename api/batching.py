"""The only place where the model runs: memes that arrive together run together.

Each lane is one long-lived thread that takes what waits, up to a batch. torch keeps a pool of workers for every thread
that calls it and its memory grows with them, so request threads never call the model. On a GPU there is one lane. On a
CPU there is one for each core: a meme alone gets all cores, and memes that compete get one core each, where no core
waits for another (measured in `bench/RESULTS.md`). Knows nothing of pictures, texts or HTTP.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor

from api.classifier import MemeClassifier
from api.metrics import Metrics
from api.vectors import Remembered
from embed.ahead import cores

_log = logging.getLogger(__name__)


class ModelFailure(RuntimeError):
    """The model failed on a batch; the server's log says how."""


class Closed(RuntimeError):
    """The batcher takes no more."""


@dataclass(eq=False)
class Side:
    """A picture or a text on its way: its key, and its vector (D,) or what the encoder takes to make it."""

    key: str
    prepared: Tensor | None = None
    vector: Tensor | None = None


@dataclass(eq=False)
class Job:
    """A meme that waits for the model; `done` resolves to the probability, when both sides have their vectors."""

    image: Side
    text: Side
    since: float = field(default_factory=perf_counter)
    done: "Future[float]" = field(default_factory=Future)


class Batcher:
    """Runs a classifier in lanes.

    most: memes in one call of the model; wait: seconds that a lane waits for memes that are still being prepared, when
    it could take more.
    """

    def __init__(
        self, classifier: MemeClassifier, most: int, wait: float, remembered: Remembered, metrics: Metrics
    ) -> None:
        self._classifier, self._remembered, self._metrics = classifier, remembered, metrics
        self._most, self._wait = most, wait
        self._waiting: deque[Job] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = Condition()
        self._arriving = self._busy = 0
        self._closed = False
        self._lanes = 1 if classifier.encoder.device.type == "cuda" else cores()
        self._threads = [Thread(target=self._run, name=f"model-{lane}", daemon=True) for lane in range(self._lanes)]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While a meme is being prepared, so that a lane can tell whether waiting is worth while."""
        self._count_arriving(1)
        try:
            yield
        finally:
            self._count_arriving(-1)

    def submit(self, job: Job) -> None:
        """Queue a meme. Whoever calls bounds how many; raises Closed after `close`."""
        with self._changed:
            self._require_open()
            self._waiting.append(job)
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Run something else that uses the model, between batches."""
        future: Future[Any] = Future()
        with self._changed:
            self._require_open()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def waiting(self) -> int:
        """How many memes wait for the model."""
        return len(self._waiting)

    def warm_up(self) -> None:
        """Every lane's first calls, which take several times as long as later ones."""
        for _ in range(self._lanes):
            self.call(lambda: self._classifier.warm_up(self._most)).result()

    def close(self) -> None:
        """Finish what waits, and end the lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("the batcher is closed")

    def _count_arriving(self, step: int) -> None:
        with self._changed:
            self._arriving += step
            self._changed.notify()

    def _run(self) -> None:
        while work := self._next():
            batch, threads = work
            torch.set_num_threads(threads)
            if callable(batch):
                batch()
            else:
                self._judge(batch)
            with self._changed:
                self._busy -= 1

    def _next(self) -> tuple[list[Job] | Callable[[], None], int] | None:
        """The next batch, or the next call, and how many cores it may use; None at the end."""
        with self._changed:
            while True:
                if self._calls:
                    function, future = self._calls.popleft()
                    self._busy += 1
                    return partial(_resolve, future, function), cores()
                if self._waiting:
                    self._wait_for_more()
                    if self._waiting:
                        return self._taken()
                elif self._closed:
                    return None
                else:
                    self._changed.wait()

    def _wait_for_more(self) -> None:
        until = monotonic() + self._wait
        while 0 < len(self._waiting) < self._most and self._arriving and (left := until - monotonic()) > 0:
            self._changed.wait(left)

    def _taken(self) -> tuple[list[Job], int]:
        # what waits is shared out among the lanes that are free, so that none stands idle beside a full one
        fair = -(-len(self._waiting) // max(1, self._lanes - self._busy))
        under_way = self._busy + len(self._waiting) + self._arriving
        batch = [self._waiting.popleft() for _ in range(min(fair, self._most))]
        self._busy += 1
        if self._waiting:
            self._changed.notify()
        return batch, max(1, cores() // min(self._lanes, under_way))

    def _judge(self, batch: Sequence[Job]) -> None:
        started = perf_counter()
        for job in batch:
            self._metrics.stages.labels("queue").observe(started - job.since)
        self._metrics.batches.observe(len(batch))
        try:
            with self._metrics.stage("model"):
                self._encode("image", [job.image for job in batch], self._classifier.encode_images)
                self._encode("text", [job.text for job in batch], self._classifier.encode_texts)
                images, texts = (
                    torch.stack([getattr(job, side).vector for job in batch]) for side in ("image", "text")
                )
                probabilities = self._classifier.judge(images, texts).tolist()
        except Exception as error:  # whatever it is, the lane must go on and nobody may wait for ever
            _log.exception("the model failed on a batch of %d", len(batch))
            self._metrics.failures.inc()
            for job in batch:
                failure = ModelFailure("the model failed on this batch")
                failure.__cause__ = error
                job.done.set_exception(failure)
            return
        for job, probability in zip(batch, probabilities, strict=True):
            job.done.set_result(probability)

    def _encode(self, kind: str, sides: Sequence[Side], encode: Callable[[Sequence[Tensor]], Tensor]) -> None:
        """Give every side its vector; the same picture twice in a batch is encoded once."""
        todo = {side.key: side.prepared for side in sides if side.vector is None}
        if not todo:
            return
        # a row of its own: a view would keep its whole batch in memory
        made = {key: row.clone() for key, row in zip(todo, encode(list(todo.values())), strict=True)}
        for key, vector in made.items():
            self._remembered.put(kind, key, vector)
        for side in sides:
            if side.vector is None:
                side.vector = made[side.key]


def _resolve(future: "Future[Any]", function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
