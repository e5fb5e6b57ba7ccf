"""Dynamic batching: worker threads run the model on batches of the waiting memes. Nothing else calls the model.

torch keeps a thread pool for each thread that calls it with more than one core. The pools take memory, and inference is
half again as slow once they have more threads than there are cores. So request threads never call the model, and only
the main worker uses several cores: those that the other workers, with one core each, leave. On a GPU there is only the
main worker.
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
from api.model.embedding_cache import EmbeddingCache
from cache import cores

_log = logging.getLogger(__name__)


# More workers are no faster than larger batches in the main one.
_MAX_WORKERS = 4


class ModelFailure(RuntimeError):
    """The model failed on a batch; the log has the traceback."""


class Closed(RuntimeError):
    """The batcher is closed."""


@dataclass(eq=False)
class EncoderInput:
    """One side of a meme. key: its content hash; either vector, (D,) float32, or prepared: pixels or tokens to encode."""

    key: str
    prepared: Tensor | None = None
    vector: Tensor | None = None


@dataclass(eq=False)
class Job:
    """A meme that waits for the model. since: as `perf_counter`; done: its probability; then both inputs have vectors."""

    image: EncoderInput
    text: EncoderInput
    since: float = field(default_factory=perf_counter)
    done: "Future[float]" = field(default_factory=Future)


Queued = TypeVar("Queued", bound=Job)
Work = TypeVar("Work", list[Job], Callable[[], None])


class Batcher:
    """Runs a classifier in worker threads.

    max_batch: memes in one call of the model; max_wait: seconds that a batch which is not full waits for memes that are
    still being decoded.
    """

    def __init__(
        self,
        classifier: MemeClassifier,
        max_batch: int,
        max_wait: float,
        embedding_cache: EmbeddingCache,
        metrics: Metrics,
    ) -> None:
        self._classifier, self._embedding_cache, self._metrics = classifier, embedding_cache, metrics
        self._max_batch, self._max_wait = max_batch, max_wait
        self._waiting: deque[Job] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = Condition()
        self._arriving = self._busy = 0
        self._closed = False
        self._worker_count = 1 if classifier.encoder.device.type == "cuda" else min(cores(), _MAX_WORKERS)
        self._main_busy = False
        self._threads = [
            Thread(target=self._run, args=(number == 0,), name=f"model-{number}", daemon=True)
            for number in range(self._worker_count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, prepare: Callable[[], Queued]) -> Queued:
        """Call `prepare` in this thread and queue the job; workers wait up to `max_wait` for it.

        The caller limits the number of jobs. Raises what `prepare` raises, and Closed after `close`.
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
        """Run a function that uses the model in the main worker, before the next batch; in this thread after `close`."""
        future: Future[Any] = Future()
        with self._changed:
            if not self._closed:
                self._calls.append((function, future))
                self._changed.notify_all()
                return future
        _resolve(future, function)  # an explanation by a bundle that was replaced meanwhile
        return future

    def waiting(self) -> int:
        """Number of memes that wait for the model."""
        return len(self._waiting)

    def warm_up(self) -> None:
        """Run the model with each number of threads that is used: the first calls with one are several times slower."""
        for threads in sorted({1, *(self._threads_for(under_way) for under_way in range(1, self._worker_count + 1))}):
            self.call(partial(self._first_calls, threads)).result()

    def close(self) -> None:
        """Run the waiting memes, then end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _first_calls(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._classifier.warm_up(self._max_batch)

    def _arrived(self, job: Job | None = None) -> None:
        # both under one lock: a worker must not see the counter without the job
        with self._changed:
            self._arriving -= 1
            self._changed.notify_all()
            if job is not None and self._closed:
                raise Closed("the batcher is closed")
            if job is not None:
                self._waiting.append(job)

    def _run(self, main: bool) -> None:
        while work := self._next(main):
            batch, threads = work
            torch.set_num_threads(threads)
            if callable(batch):
                batch()
            else:
                self._run_batch(batch)
            with self._changed:
                self._busy -= 1
                if main:
                    self._main_busy = False

    def _next(self, main: bool) -> tuple[list[Job] | Callable[[], None], int] | None:
        """The next batch or call, and the number of cores that it may use; None once closed and empty."""
        with self._changed:
            while True:
                if main and self._calls:
                    function, future = self._calls.popleft()
                    return self._mark_busy(partial(_resolve, future, function), main), cores()
                if self._waiting and (main or self._main_busy):
                    self._wait_for_more()
                    if self._waiting and not (main and self._calls):
                        threads = self._threads_for(self._busy + len(self._waiting) + self._arriving) if main else 1
                        return self._mark_busy(self._take_batch(), main), threads
                elif self._closed and not self._waiting:
                    return None
                else:
                    self._changed.wait()

    def _wait_for_more(self) -> None:
        until = monotonic() + self._max_wait
        while 0 < len(self._waiting) < self._max_batch and self._arriving and not self._calls:
            if (left := until - monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _take_batch(self) -> list[Job]:
        # divide the queue among the idle workers
        fair = -(-len(self._waiting) // max(1, self._worker_count - self._busy))
        return [self._waiting.popleft() for _ in range(min(fair, self._max_batch))]

    def _threads_for(self, under_way: int) -> int:
        """Cores for the main worker: those that the others leave."""
        return max(1, cores() - min(self._worker_count, under_way) + 1)

    def _mark_busy(self, work: Work, main: bool) -> Work:
        self._busy += 1
        self._main_busy = self._main_busy or main
        self._changed.notify_all()  # the other workers may take the rest
        return work

    def _run_batch(self, batch: Sequence[Job]) -> None:
        started = perf_counter()
        for job in batch:
            self._metrics.stages.labels("queue").observe(started - job.since)
        self._metrics.batches.observe(len(batch))
        try:
            with self._metrics.stage("model"):
                answers = list(zip(batch, self._probabilities(batch), strict=True))
        except BaseException:  # noqa: BLE001 - the worker must live on and every job must resolve
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
        images, texts = (torch.stack([getattr(job, kind).vector for job in batch]) for kind in ("image", "text"))
        return self._classifier.probabilities(images, texts).tolist()

    def _encode(self, kind: str, inputs: Sequence[EncoderInput], encode: Callable[[Sequence[Tensor]], Tensor]) -> None:
        """Set the vector of every input; inputs with the same key are encoded once."""
        todo: dict[str, Tensor] = {}
        for item in inputs:
            if item.vector is None:  # an input with the same key may have been encoded meanwhile
                item.vector = self._embedding_cache.peek(kind, item.key)
            if item.vector is None:
                assert item.prepared is not None
                todo[item.key] = item.prepared
        if not todo:
            return
        # clone: a view would keep the whole batch in memory
        made = {key: row.clone() for key, row in zip(todo, encode(list(todo.values())), strict=True)}
        for key, vector in made.items():
            self._embedding_cache.put(kind, key, vector)
        for item in inputs:
            if item.vector is None:
                item.vector = made[item.key]


def _resolve(future: "Future[Any]", function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised by `result`
        future.set_exception(error)
