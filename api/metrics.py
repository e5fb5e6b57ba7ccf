"""What `/metrics` shows, in Prometheus' format. One registry per server, so that two of them in one process (the tests
have many) do not share their counts.
"""

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
    """Every number that a server keeps of itself."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second line for each, which nobody reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files
        PlatformCollector(registry=registry)
        self.requests = Counter("meme_requests", "Requests answered.", ("path", "method", "status"), registry=registry)
        self.latency = Histogram(
            "meme_request_seconds", "From a request read whole to its answer.", ("path",), registry=registry,
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
            "meme_cache_lookups", "Vectors and read texts looked for among those kept.", ("kind", "result"),
            registry=registry,
        )  # fmt: skip
        self.predictions = Counter("meme_predictions", "Memes answered.", ("label",), registry=registry)
        # drift is seen here before anybody complains
        self.probabilities = Histogram(
            "meme_probability", "Probability of offensive.", registry=registry, buckets=_PROBABILITIES
        )
        self.failures = Counter("meme_model_failures", "Batches that the model failed on.", registry=registry)
        self.unread = Counter("meme_unread", "Pictures that the engine failed to read words off.", registry=registry)
        self.reloads = Counter("meme_reloads", "Bundles taken over on SIGHUP.", ("result",), registry=registry)
        self._model = Gauge("meme_model", "The bundle that answers: always 1.", ("name", "version"), registry=registry)
        self._under_way = Gauge("meme_under_way", "Memes admitted and not yet answered.", registry=registry)
        self._queue = Gauge("meme_queue_depth", "Memes that wait for the model.", registry=registry)

    def watch(self, under_way: Callable[[], int]) -> None:
        """Read the number of memes under way from there, whenever somebody asks."""
        self._under_way.set_function(under_way)

    def serving(self, name: str, version: str, queue: Callable[[], int]) -> None:
        """From now on this bundle answers; how many wait for it is read from `queue`."""
        self._model.clear()
        self._model.labels(name, version).set(1)
        self._queue.set_function(queue)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside, as one of STAGES; what fails is timed too."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(perf_counter() - started)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
