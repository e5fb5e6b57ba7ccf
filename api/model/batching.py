"""The only place where the model runs: memes that arrive together run together.

Each lane is one long-lived thread that takes what waits, up to a batch. torch keeps a pool of workers for every thread
that calls it with more than one core, its memory grows with them, and as soon as all pools together have more threads
than there are cores, they sleep and wake at every step: half again as slow. So request threads never call the model, and
only the wide lane ever uses several cores: all of them for a meme alone, those that are left while narrow lanes work,
which use one each. On a GPU there is the wide lane alone. Knows nothing of pictures, texts or HTTP.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from math import isnan, nan
from threading import Condition, Thread
from time import monotonic, perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from api.metrics import Metrics
from api.model.classifier import MemeClassifier
from api.model.kept_vectors import Remembered
from cache import cores

_log = logging.getLogger(__name__)


# Beyond, larger batches in the wide lane are as good, and fuller.
_MOST_LANES = 4


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


Queued = TypeVar("Queued", bound=Job)
Work = TypeVar("Work", list[Job], Callable[[], None])


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
        self._lanes = 1 if classifier.encoder.device.type == "cuda" else min(cores(), _MOST_LANES)
        self._wide_busy = False
        self._threads = [
            Thread(target=self._run, args=(lane == 0,), name=f"model-{lane}", daemon=True)
            for lane in range(self._lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, prepare: Callable[[], Queued]) -> Queued:
        """Queue the meme that `prepare` makes here and now; a lane can tell meanwhile that one is on its way.

        Whoever calls bounds how many. Raises what `prepare` raises, and Closed after `close`.
        """
        with self._changed:
            self._arriving += 1
        try:
            job = prepare()
        except BaseException:
            self._arrived()
            raise
        self._arrived(job)
        return job

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Run something else that uses the model: in the wide lane, before the next batch, or here once the lanes have
        ended."""
        future: Future[Any] = Future()
        with self._changed:
            if not self._closed:
                self._calls.append((function, future))
                self._changed.notify_all()
                return future
        _resolve(future, function)  # an answer of a bundle that was replaced meanwhile still wants its explanation
        return future

    def waiting(self) -> int:
        """How many memes wait for the model."""
        return len(self._waiting)

    def warm_up(self) -> None:
        """The first calls with each number of threads, which take several times as long as later ones in any lane."""
        for threads in sorted({1, *(self._width(under_way) for under_way in range(1, self._lanes + 1))}):
            self.call(partial(self._first_calls, threads)).result()

    def close(self) -> None:
        """Finish what waits, and end the lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _first_calls(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._classifier.warm_up(self._most)

    def _arrived(self, job: Job | None = None) -> None:
        # in one step: a lane that saw that nobody is arriving, and not yet the job, would go without it
        with self._changed:
            self._arriving -= 1
            self._changed.notify_all()
            if job is not None and self._closed:
                raise Closed("the batcher is closed")
            if job is not None:
                self._waiting.append(job)

    def _run(self, wide: bool) -> None:
        while work := self._next(wide):
            batch, threads = work
            torch.set_num_threads(threads)
            if callable(batch):
                batch()
            else:
                self._judge(batch)
            with self._changed:
                self._busy -= 1
                if wide:
                    self._wide_busy = False

    def _next(self, wide: bool) -> tuple[list[Job] | Callable[[], None], int] | None:
        """The next batch, or the next call, and how many cores it may use; None at the end."""
        with self._changed:
            while True:
                if wide and self._calls:
                    function, future = self._calls.popleft()
                    return self._taken(partial(_resolve, future, function), wide), cores()
                if self._waiting and (wide or self._wide_busy):
                    self._wait_for_more()
                    if self._waiting and not (wide and self._calls):
                        threads = self._width(self._busy + len(self._waiting) + self._arriving) if wide else 1
                        return self._taken(self._share(), wide), threads
                elif self._closed and not self._waiting:
                    return None
                else:
                    self._changed.wait()

    def _wait_for_more(self) -> None:
        until = monotonic() + self._wait
        while 0 < len(self._waiting) < self._most and self._arriving and not self._calls:
            if (left := until - monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _share(self) -> list[Job]:
        # what waits is shared out among the lanes that are free, so that none stands idle beside a full one
        fair = -(-len(self._waiting) // max(1, self._lanes - self._busy))
        return [self._waiting.popleft() for _ in range(min(fair, self._most))]

    def _width(self, under_way: int) -> int:
        """The cores that narrow lanes leave to the wide one."""
        return max(1, cores() - min(self._lanes, under_way) + 1)

    def _taken(self, work: Work, wide: bool) -> Work:
        self._busy += 1
        self._wide_busy = self._wide_busy or wide
        self._changed.notify_all()  # narrow lanes may take what is left
        return work

    def _judge(self, batch: Sequence[Job]) -> None:
        started = perf_counter()
        for job in batch:
            self._metrics.stages.labels("queue").observe(started - job.since)
        self._metrics.batches.observe(len(batch))
        try:
            with self._metrics.stage("model"):
                answers = list(zip(batch, self._probabilities(batch), strict=True))
        except BaseException:  # noqa: BLE001 - whatever it is, the lane must go on and nobody may wait for ever
            _log.exception("the model failed on a batch of %d", len(batch))
            answers = [(job, nan) for job in batch]
        failed = sum(isnan(probability) for _, probability in answers)
        if failed:
            _log.error("the model found no probability for %d of %d memes", failed, len(batch))
            self._metrics.failures.inc()
        for job, probability in answers:
            if isnan(probability):
                job.done.set_exception(ModelFailure("the model failed on this meme or its batch"))
            else:
                job.done.set_result(probability)

    def _probabilities(self, batch: Sequence[Job]) -> list[float]:
        self._encode("image", [job.image for job in batch], self._classifier.encode_images)
        self._encode("text", [job.text for job in batch], self._classifier.encode_texts)
        images, texts = (torch.stack([getattr(job, side).vector for job in batch]) for side in ("image", "text"))
        return self._classifier.judge(images, texts).tolist()

    def _encode(self, kind: str, sides: Sequence[Side], encode: Callable[[Sequence[Tensor]], Tensor]) -> None:
        """Give every side its vector; the same picture twice in a batch is encoded once."""
        todo: dict[str, Tensor] = {}
        for side in sides:
            if side.vector is None:  # its twin may have been encoded while it waited
                side.vector = self._remembered.peek(kind, side.key)
            if side.vector is None:
                assert side.prepared is not None  # a side comes with one or the other
                todo[side.key] = side.prepared
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
    except BaseException as error:  # noqa: BLE001 - as above
        future.set_exception(error)
