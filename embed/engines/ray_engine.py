"""The embedding job's work on a Ray cluster: tasks read, hash and prepare, actors encode, the job's process writes.

    shard      so many batches of what the cache lacks; it becomes one segment, whole or not at all
    encode     an actor on each GPU; where there is none, one on each CPU, which also prepares
    prepare    for GPUs, a task on a CPU for each batch: reads and decodes, or tokenises

Which keys are left the cache alone says, so a lost worker costs the shard that it was encoding, and a killed job those
of its workers. `python -m embed --engine ray` uses it, on the cluster of RAY_ADDRESS, else on this machine.
"""

import json
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from tqdm import tqdm

from cache import VectorStore, require_same_spec
from embed.base.errors import first_line
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.engines.fill import Batch, Filled, SegmentWriter, shares, take
from embed.engines.local import Item, Result
from embed.engines.ray_workers import Encoder, Facts, Items, prepare

# At most; of a GPU's batches, some 8,000 pictures: seconds of work, and few files of many rows.
_BATCHES_PER_SHARD = 16
# At least, where there is a batch for each: so little an encoder waits for the last one.
_SHARDS_FOR_EACH = 4
# One is encoded while the next is prepared.
_SHARDS_PER_ENCODER = 2
# Tasks of `map` that are under way or wait, for each processor: none of them waits for the job.
_TASKS_PER_CPU = 4
# A shard that three workers did not survive is likelier too large for their memory than three times unlucky.
_MOST_LOSSES = 3
# So long nothing happens before the job says what it waits for.
_PATIENCE_SECONDS = 60.0
# A cluster that is there answers at once; Ray itself tries for minutes, and then ends the process.
_CONNECT_SECONDS = 5


class ClusterUnavailable(ValueError):
    """The Ray cluster does not answer, or its workers do not survive the work."""


@dataclass(eq=False)
class _Shard:
    """Items that are encoded together, and how many workers were lost over them."""

    items: Items
    losses: int = 0


@dataclass(eq=False)
class _Worker:
    """An actor, and its shards by the references of the calls, in their order; one without items is its loading."""

    actor: Any
    loaded: bool = False
    calls: dict[Any, _Shard] = field(default_factory=dict)


class RayEngine:
    """See `embed.engines.local.Engine`."""

    def __init__(self, request: EncoderRequest, device: str, say: Callable[[str], None]) -> None:
        """Connect. Raises ClusterUnavailable."""
        self._request, self._say = request.absolute(), say
        _connect()
        resources = ray.cluster_resources()
        gpus, self._cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
        if device == "cuda" and not gpus:
            raise ClusterUnavailable(
                "device cuda was asked for, and the Ray cluster has no GPU; use --device cpu or auto"
            )
        self._on_gpu = gpus > 0 and device != "cpu"
        self._most = gpus if self._on_gpu else self._cpus
        self._workers: list[_Worker] = []
        self._facts: Facts | None = None  # the first encoder's; the others have to be like it
        self._failed_starts = 0
        self.device = ""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        task: Any = ray.remote(num_cpus=1)(_call)  # no encoder holds a processor yet: this comes before `load`
        shared = ray.put(work)
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(task.remote(shared, item))
            if len(waiting) >= _TASKS_PER_CPU * self._cpus:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def load(self) -> tuple[dict[str, Any], Path]:
        facts = self._loaded()
        return facts.spec, facts.weights

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> Filled:
        facts, filled, writer = self._loaded(), Filled(), SegmentWriter(store, kind)
        size = facts.batch_sizes[kind]
        wanted = min(self._most, math.ceil(len(todo) / (_BATCHES_PER_SHARD * size)))
        batches = min(_BATCHES_PER_SHARD, max(1, len(todo) // (size * wanted * _SHARDS_FOR_EACH)))
        waiting = deque(_Shard(items) for items in _cut(list(todo.items()), batches * size))
        task = ray.remote(num_cpus=1)(prepare)
        spec = json.dumps(facts.spec)
        with tqdm(total=len(todo), unit=f" {kind}s", desc=f"{kind}s", mininterval=0.5) as bar:
            while waiting or any(shard.items for worker in self._workers for shard in worker.calls.values()):
                self._start_workers(wanted)
                self.device = f"{len(self._workers)} of the Ray cluster's {'GPUs' if self._on_gpu else 'processors'}"
                for worker in self._workers:
                    while waiting and worker.loaded and len(worker.calls) < _SHARDS_PER_ENCODER:
                        shard = waiting.popleft()
                        parts = _cut(shard.items, size)
                        if self._on_gpu:
                            prepared = [task.remote(self._request.model, spec, root, kind, items) for items in parts]
                            call = worker.actor.encode.remote(kind, *prepared)
                        else:
                            # Tasks beside as many encoders as there are CPUs would be more workers than Ray keeps: it
                            # ends those that wait, and starting one costs seconds.
                            call = worker.actor.prepare_and_encode.remote(kind, root, *parts)
                        worker.calls[call] = shard
                done = self._next()
                if isinstance(done, Batch):
                    take(done, writer, filled)
                    writer.close_segment()
                    bar.set_postfix_str(shares(kind, filled), refresh=False)
                    bar.update(len(done.items))
                else:
                    waiting.extendleft(reversed(done))
        return filled

    def close(self) -> None:
        ray.shutdown()

    def _loaded(self) -> Facts:
        while self._facts is None:
            if not self._workers:
                self._say(f"loading {self._request} on the Ray cluster")
            self._start_workers(1)
            self._next()
        return self._facts

    def _start_workers(self, wanted: int) -> None:
        """Have as many workers, those that are still loading counted in."""
        request = self._request
        if self._facts:  # in its precision, whatever another processor would make of "auto"
            request = replace(request, options=EncoderOptions.of_spec(self._facts.spec))
        resources: Any = {"num_cpus": 1}
        if self._on_gpu:  # no processor where none would be left for the tasks
            resources = {"num_gpus": 1, "num_cpus": int(self._cpus > self._most)}
        for _ in range(wanted - len(self._workers)):
            actor_class: Any = ray.remote(**resources, scheduling_strategy="SPREAD")(Encoder)
            actor = actor_class.remote(request, "cuda" if self._on_gpu else "cpu")
            self._workers.append(_Worker(actor, calls={actor.load.remote(): _Shard([])}))

    def _next(self) -> Batch | list[_Shard]:
        """What ends next: a shard's vectors, or the shards that have to be done again."""
        calls = {call: worker for worker in self._workers for call in worker.calls}
        while not (done := ray.wait(list(calls), num_returns=1, timeout=_PATIENCE_SECONDS)[0]):
            self._say(
                f"waiting for {len(self._workers)} encoders; the cluster has {_in_words(ray.cluster_resources())}"
            )
        call = done[0]
        worker = calls[call]
        try:
            result = _result(call)
        except RayActorError as error:
            return self._lost(worker, error)
        except RayError as error:  # a worker that prepared, or what it had made
            return [self._again(worker.calls.pop(call), error)]
        del worker.calls[call]
        if isinstance(result, Batch):
            return result
        self._facts = self._facts or result
        require_same_spec(self._facts.spec, result.spec, "two encoders of the Ray cluster")
        worker.loaded = True
        return []

    def _lost(self, worker: _Worker, error: RayError) -> list[_Shard]:
        """Its shards, of which the first was in hand."""
        self._workers.remove(worker)
        first, *others = worker.calls.values()
        self._failed_starts = 0 if worker.loaded else self._failed_starts + 1
        if self._failed_starts >= _MOST_LOSSES:
            raise ClusterUnavailable(
                f"{_MOST_LOSSES} workers ended while they loaded the encoder ({first_line(error)})"
            )
        return [self._again(first, error), *others] if worker.loaded else []

    def _again(self, shard: _Shard, error: RayError) -> _Shard:
        shard.losses += 1
        where = f"{len(shard.items)} items, of which the first is {shard.items[0][1][:80]!r}"
        if shard.losses >= _MOST_LOSSES:
            raise ClusterUnavailable(
                f"{_MOST_LOSSES} workers ended over the same {where} ({first_line(error)}); if their memory is too small, "
                "give a node fewer processors (ray start --num-cpus)"
            )
        self._say(f"a worker was lost; what it had in hand is made again ({where})")
        return shard


def _connect() -> None:
    # Ray reports how it is used to its makers, unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    place = urlsplit(address if "//" in address else f"//{address}")
    try:
        if place.port:
            socket.create_connection((place.hostname, place.port), timeout=_CONNECT_SECONDS).close()
        # not whatever cluster happens to run here
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({first_line(error)}); `ray start --head` begins one, "
            "and without RAY_ADDRESS the job runs on this machine alone"
        ) from error


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


def _result(call: Any) -> Any:
    """What a call gave; its error as it was raised."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, Exception) and not isinstance(error.cause, RayError):
            raise error.cause from None
        raise


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _in_words(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
