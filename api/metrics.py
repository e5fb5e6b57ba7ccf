"""The Prometheus metrics of `/metrics`. One registry per server, so that several in one process (tests) are separate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest

# From a cached head to a large model on a busy CPU.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROBABILITIES = tuple(step / 20 for step in range(1, 21))
STAGES = ("decode", "ocr", "queue", "model", "explain")


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # no `_created` series
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, open files
        PlatformCollector(registry=registry)
        self.requests = Counter("meme_requests", "Requests answered.", ("path", "method", "status"), registry=registry)
        self.latency = Histogram(
            "meme_request_seconds", "From a request received in full to its response.", ("path",), registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.stages = Histogram(
            "meme_stage_seconds", "Where a meme's time goes: " + ", ".join(STAGES) + ".", ("stage",), registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        for stage in STAGES:
            self.stages.labels(stage)
        self.batches = Histogram(
            "meme_batch_size", "Memes that ran together.", registry=registry, buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32)
        )
        self.lookups = Counter(
            "meme_cache_lookups", "Lookups in the cache of embeddings and OCR texts.", ("kind", "result"),
            registry=registry,
        )  # fmt: skip
        self.predictions = Counter("meme_predictions", "Memes answered.", ("label",), registry=registry)
        # shows drift of the inputs
        self.probabilities = Histogram(
            "meme_probability", "Probability of offensive.", registry=registry, buckets=_PROBABILITIES
        )
        self.failures = Counter("meme_model_failures", "Batches on which the model failed.", registry=registry)
        self.ocr_failures = Counter("meme_unread", "Pictures on which OCR failed.", registry=registry)
        self.reloads = Counter("meme_reloads", "Reloads of the bundle on SIGHUP.", ("result",), registry=registry)
        self._model = Gauge("meme_model", "The loaded bundle: always 1.", ("name", "version"), registry=registry)
        self._in_progress = Gauge("meme_under_way", "Memes in progress.", registry=registry)
        self._queue = Gauge("meme_queue_depth", "Memes that wait for the model.", registry=registry)

    def set_in_progress(self, in_progress: Callable[[], int]) -> None:
        """Set the function that returns the number of memes in progress; called for each scrape."""
        self._in_progress.set_function(in_progress)

    def set_model(self, name: str, version: str, queue: Callable[[], int]) -> None:
        """Set the loaded bundle; queue: returns the number of memes that wait for the model."""
        self._model.clear()
        self._model.labels(name, version).set(1)
        self._queue.set_function(queue)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one of STAGES, also if it raises."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(perf_counter() - started)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
