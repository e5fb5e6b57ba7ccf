"""The embedding engine for a Ray cluster: tasks preprocess, actors encode, the job's process writes.

A shard is a number of batches of keys missing in the cache, cut when an encoder asks for it; its vectors are collected
into segments as those of the local engine. There is one encoder actor per GPU, fed by one CPU task per batch that reads
and decodes, or tokenises; without GPUs there is one actor per CPU, which also preprocesses. A lost worker costs the shard
it was encoding, and a killed job those of its workers and the segments in hand. The cluster is that of RAY_ADDRESS, or else this machine.
"""

import json
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cache import VectorStore, require_same_spec
from embed.base.errors import first_line
from embed.clip.options import EncoderOptions, EncoderRequest, library_versions
from embed.engines.batches import Batch
from embed.engines.local import Item, Result
from embed.engines.ray_workers import Encoder, Facts, Items, call, prepare
from embed.engines.writing import BatchWriter, Filled

# Maximum; on a GPU about 8,000 pictures: seconds of work, and few files.
_BATCHES_PER_SHARD = 16
# Minimum of shards per encoder, if there are enough batches: keeps the wait for the last shard short.
_MIN_SHARDS = 4
# Shards submitted to an encoder: the next is preprocessed while one is encoded.
_SHARDS_IN_FLIGHT = 2
# Tasks of `map` submitted per CPU, so that no CPU waits for the job.
_TASKS_PER_CPU = 4
# Workers lost on one shard, or while loading, before the job fails: the likely cause is too little memory.
_MAX_LOSSES = 3
# Seconds without progress before the job reports what it waits for.
_REPORT_SECONDS = 60.0
# Seconds to connect: a running cluster answers at once; Ray would retry for minutes and then end the process.
_CONNECT_SECONDS = 5


class ClusterUnavailable(ValueError):
    """The Ray cluster does not answer, has no GPU for --device cuda, or its workers die repeatedly."""


@dataclass(eq=False)
class _Shard:
    """Items of a number of batches, and the number of workers lost while encoding them."""

    items: Items
    losses: int = 0


class _Shards:
    """Shards to encode, cut from the items one by one; those to repeat come first."""

    def __init__(self, items: Iterable[tuple[str, str]], size: int) -> None:
        self._items, self._size = iter(items), size
        self._next: deque[_Shard] = deque()

    def __bool__(self) -> bool:
        if not self._next and (items := list(islice(self._items, self._size))):
            self._next.append(_Shard(items))
        return bool(self._next)

    def take(self) -> _Shard:
        """The next shard; there must be one."""
        assert self
        return self._next.popleft()

    def repeat(self, shards: list[_Shard]) -> None:
        """Put shards of a lost worker back."""
        self._next.extendleft(reversed(shards))


@dataclass(eq=False)
class _Worker:
    """An actor and its shards by call reference, in order; the shard of the call that loads it has no items."""

    actor: Any
    loaded: bool = False
    calls: dict[Any, _Shard] = field(default_factory=dict)


class RayEngine:
    """See `embed.engines.local.Engine`."""

    def __init__(self, request: EncoderRequest, device: str, say: Callable[[str], None]) -> None:
        """Connect to the cluster. Raises ClusterUnavailable."""
        self._request, self._say = request.absolute(), say
        _connect()
        resources = ray.cluster_resources()
        gpus, self._cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
        if device == "cuda" and not gpus:
            raise ClusterUnavailable("--device cuda: the Ray cluster has no GPU; use --device cpu or auto")
        self._on_gpu = gpus > 0 and device != "cpu"
        self._most = gpus if self._on_gpu else self._cpus
        self._workers: list[_Worker] = []
        self._facts: Facts | None = None  # of the first encoder; the others need the same spec
        self._failed_starts = 0
        self.device = ""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of each item, in order, one CPU each; call before `load`, since encoders reserve CPUs.

        Raises the exceptions of `work`, SpecMismatch if a machine has other versions of the libraries than this one, and
        ClusterUnavailable if workers are lost repeatedly.
        """
        task: Any = ray.remote(num_cpus=1)(call)
        shared = ray.put(work)
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(task.remote(library_versions(), shared, item))
            if len(waiting) >= _TASKS_PER_CPU * self._cpus:
                yield _mapped(waiting.popleft())
        while waiting:
            yield _mapped(waiting.popleft())

    def load(self) -> tuple[dict[str, Any], Path]:
        """The feature spec and the weights file of the encoders. Starts an actor if there is none.

        Raises EncoderUnavailable, TooLittleMemory if the model does not fit into a worker's memory, and
        ClusterUnavailable if it cannot be loaded for another reason, or if three workers in succession die while loading,
        e.g. killed for lack of memory.
        """
        facts = self._loaded()
        return facts.spec, facts.weights

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> Filled:
        """Embed {key: image under `root`, or text} into `store`.

        Raises what `load` raises, TooLittleMemory, ClusterUnavailable if three workers die on one shard, SpecMismatch
        if workers differ, BrokenEncoder if no vector is finite, and OSError.
        """
        facts = self._loaded()
        size = facts.batch_sizes[kind]
        wanted = min(self._most, math.ceil(len(todo) / (_BATCHES_PER_SHARD * size)))
        batches = min(_BATCHES_PER_SHARD, max(1, len(todo) // (size * wanted * _MIN_SHARDS)))
        waiting = _Shards(todo.items(), batches * size)
        submit = self._submitter(facts, kind, root)
        with BatchWriter(store, kind, len(todo)) as writer:
            while waiting or any(shard.items for worker in self._workers for shard in worker.calls.values()):
                self._start_workers(wanted)
                self.device = f"{len(self._workers)} of the Ray cluster's {'GPUs' if self._on_gpu else 'processors'}"
                for worker in self._workers:
                    while worker.loaded and len(worker.calls) < _SHARDS_IN_FLIGHT and waiting:
                        shard = waiting.take()
                        worker.calls[submit(worker, _cut(shard.items, size))] = shard
                done = self._next()
                if isinstance(done, Batch):
                    writer.take(done)
                else:
                    waiting.repeat(done)
        return writer.filled

    def close(self) -> None:
        ray.shutdown()

    def _submitter(self, facts: Facts, kind: str, root: Path) -> Callable[[_Worker, list[Items]], Any]:
        """A function that sends the batches of a shard to a worker and returns the call."""
        task: Any = ray.remote(num_cpus=1)(prepare)
        spec = json.dumps(facts.spec)

        def submit(worker: _Worker, parts: list[Items]) -> Any:
            if self._on_gpu:
                prepared = [task.remote(self._request.model, spec, root, kind, items) for items in parts]
                return worker.actor.encode.remote(kind, *prepared)
            # Tasks as well as one encoder per CPU would exceed the workers that Ray keeps: it ends idle ones, and
            # starting one takes seconds.
            return worker.actor.prepare_and_encode.remote(kind, root, *parts)

        return submit

    def _loaded(self) -> Facts:
        while self._facts is None:
            if not self._workers:
                self._say(f"loading {self._request} on the Ray cluster")
            self._start_workers(1)
            self._next()
        return self._facts

    def _start_workers(self, wanted: int) -> None:
        """Start actors until there are `wanted`, including those still loading."""
        request = self._request
        if self._facts:  # the first encoder's precision: "auto" may resolve differently on another CPU
            request = replace(request, options=EncoderOptions.of_spec(self._facts.spec))
        resources: Any = {"num_cpus": 1}
        if self._on_gpu:  # reserve a CPU only if some remain for the tasks
            resources = {"num_gpus": 1, "num_cpus": int(self._cpus > self._most)}
        for _ in range(wanted - len(self._workers)):
            actor_class: Any = ray.remote(**resources, scheduling_strategy="SPREAD")(Encoder)
            actor = actor_class.remote(request, "cuda" if self._on_gpu else "cpu")
            self._workers.append(_Worker(actor, calls={actor.load.remote(): _Shard([])}))

    def _next(self) -> Batch | list[_Shard]:
        """Wait for the next call to end: a shard's vectors, or the shards to repeat."""
        calls = {call: worker for worker in self._workers for call in worker.calls}
        while not (done := ray.wait(list(calls), num_returns=1, timeout=_REPORT_SECONDS)[0]):
            self._say(
                f"waiting for {len(self._workers)} encoders; the cluster has {_in_words(ray.cluster_resources())}"
            )
        call = done[0]
        worker = calls[call]
        try:
            result = _result(call)
        except RayError as error:
            if isinstance(error, RayActorError) or not worker.loaded:
                return self._lost(worker, error)
            return [self._again(worker.calls.pop(call), error)]  # a preprocessing worker or its result was lost
        del worker.calls[call]
        if isinstance(result, Batch):
            return result
        self._facts = self._facts or result
        require_same_spec(self._facts.spec, result.spec, "two encoders of the Ray cluster")
        worker.loaded = True
        return []

    def _lost(self, worker: _Worker, error: RayError) -> list[_Shard]:
        """The shards of a lost worker to repeat; it was encoding the first."""
        self._workers.remove(worker)
        first, *others = worker.calls.values()
        self._failed_starts = 0 if worker.loaded else self._failed_starts + 1
        if self._failed_starts >= _MAX_LOSSES:
            raise ClusterUnavailable(f"{_MAX_LOSSES} workers died while loading the encoder ({first_line(error)})")
        return [self._again(first, error), *others] if worker.loaded else []

    def _again(self, shard: _Shard, error: RayError) -> _Shard:
        shard.losses += 1
        where = f"{len(shard.items)} items, the first is {shard.items[0][1][:80]!r}"
        if shard.losses >= _MAX_LOSSES:
            raise ClusterUnavailable(
                f"{_MAX_LOSSES} workers died on the same shard ({where}): {first_line(error)}; if they lack memory, "
                "give each node fewer processors (ray start --num-cpus)"
            )
        self._say(f"a worker was lost; its shard is repeated ({where})")
        return shard


def _connect() -> None:
    # disables Ray's usage reports
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    place = urlsplit(address if "//" in address else f"//{address}")
    try:
        if place.port:
            socket.create_connection((place.hostname, place.port), timeout=_CONNECT_SECONDS).close()
        # "local": without an address Ray would join any cluster running on this machine
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({first_line(error)}); `ray start --head` starts one, "
            "and without RAY_ADDRESS the job runs on this machine only"
        ) from error


def _mapped(call: Any) -> Any:
    """The result of a task of `map`."""
    try:
        return _result(call)
    except RayError as error:
        raise ClusterUnavailable(
            f"workers that read pictures were lost repeatedly ({first_line(error)}); if they lack memory, give each node "
            "fewer processors (ray start --num-cpus); the same command goes on"
        ) from error


def _result(call: Any) -> Any:
    """The result of a call. Raises RayError if it was lost, else the worker's own exception or ClusterUnavailable."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayError) or not isinstance(cause, Exception):
            raise
        if isinstance(cause, (ValueError, OSError)):
            raise cause from None
        raise ClusterUnavailable(f"a worker of the Ray cluster failed: {type(cause).__name__}: {cause}") from error


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _in_words(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
