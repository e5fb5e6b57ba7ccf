"""Ray worker code: a task that preprocesses a batch, and an actor that holds the encoder.

Workers do not write to the store; the job's own process does (`embed.engines.ray_engine`).
"""

import json
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import require_same_spec
from embed.base.memory import TooLittleMemory, is_out_of_memory
from embed.clip.encoder import load_encoder
from embed.clip.hardware import choose_device
from embed.clip.options import EncoderRequest, library_versions
from embed.clip.preprocessor import Preprocessor, load_preprocessor
from embed.engines.batches import Batch, Encoding, GpuBatches
from embed.engines.prepare import Prepared, preparer
from embed.pictures.hashing import read_ahead

Items = list[tuple[str, str]]
"""(key, image path under the root or text) of each item."""


@dataclass(frozen=True)
class Facts:
    """Properties of a loaded encoder; batch_sizes: {"image" | "text": items per batch}."""

    spec: dict[str, Any]
    weights: Path
    device: str
    batch_sizes: dict[str, int]


@dataclass(frozen=True)
class PreparedBatch:
    """Items without tensors, the tensors of the successful ones as arrays, and the seconds of preprocessing."""

    items: list[Prepared]
    arrays: list[np.ndarray]
    seconds: float


def prepare(model: str, spec: str, root: Path, kind: str, items: Items) -> PreparedBatch:
    """Read and decode pictures, or tokenise texts, in a task; spec: of the encoders, as JSON.

    Raises SpecMismatch if this machine would prepare them otherwise, and TooLittleMemory.
    """
    return _prepare(_inputs(model, spec), root, kind, items)


@lru_cache(maxsize=1)
def _inputs(model: str, spec: str) -> Preprocessor:
    torch.set_num_threads(1)  # a task has one CPU
    return load_preprocessor(model, json.loads(spec))


def _prepare(inputs: Preprocessor, root: Path, kind: str, items: Items) -> PreparedBatch:
    started = time.monotonic()
    with _enough_memory(), read_ahead(root, [item for _, item in items] if kind == "image" else ()) as ahead:
        made = [preparer(kind, inputs, ahead)(key, item) for key, item in items]
    # Ray passes arrays through shared memory; tensors would be copied
    arrays = [item.tensor.numpy() for item in made if item.tensor is not None]
    return PreparedBatch([item.without_tensor() for item in made], arrays, time.monotonic() - started)


def call(versions: dict[str, str], work: Callable[[Any], Any], item: Any) -> Any:
    """`work` of an item in a task. Raises SpecMismatch unless this machine has the job's library versions."""
    require_same_spec(versions, _versions(), f"libraries on {socket.gethostname()}")
    return work(item)


_versions = cache(library_versions)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Raise TooLittleMemory instead of torch's and Python's own errors."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TooLittleMemory(
            f"the memory of {socket.gethostname()} is too small for its workers; give each node fewer processors "
            "(ray start --num-cpus)"
        ) from error


class Encoder:
    """The actor. Loading is a separate call, so that its exceptions reach the caller unchanged."""

    def __init__(self, request: EncoderRequest, device: str) -> None:
        self._request, self._device = request, device

    def load(self) -> Facts:
        """Load the model. Raises EncoderUnavailable and TooLittleMemory."""
        device, wanted = choose_device(self._device), self._request
        self._encoder = load_encoder(wanted.model, wanted.pretrained, device, wanted.options, wanted.delta)
        if device.type == "cpu":
            torch.set_num_threads(1)  # as in the local engine: each CPU works on its own batch
        sizes = {kind: self._encoder.batch_size(kind) for kind in ("image", "text")}
        return Facts(self._encoder.spec, self._encoder.weights, str(device), sizes)

    def encode(self, kind: str, *prepared: PreparedBatch) -> Batch:
        """The vectors of a shard's batches, preprocessed by tasks. Raises TooLittleMemory."""
        return self._encode(kind, prepared)

    def prepare_and_encode(self, kind: str, root: Path, *batches: Items) -> Batch:
        """The vectors of a shard's batches, preprocessed on this CPU as well. Raises TooLittleMemory."""
        return self._encode(kind, (_prepare(self._encoder, root, kind, items) for items in batches))

    def _encode(self, kind: str, batches: Iterable[PreparedBatch]) -> Batch:
        preparing = 0.0

        def items() -> Generator[Prepared, None, None]:
            nonlocal preparing
            for batch in batches:
                preparing += batch.seconds
                yield from _with_tensors(batch)

        with _enough_memory():
            made = list(GpuBatches(items(), Encoding.of(self._encoder, kind)).encoded())
        vectors = [batch.vectors for batch in made if len(batch.vectors)] or [np.empty((0, 0), np.float32)]
        encoding = sum(batch.encoding for batch in made)
        return Batch([item for batch in made for item in batch.items], np.concatenate(vectors), preparing, encoding)


def _with_tensors(batch: PreparedBatch) -> Iterator[Prepared]:
    arrays = iter(batch.arrays)
    for item in batch.items:
        yield item if item.failure else replace(item, tensor=torch.tensor(next(arrays)))
