"""Ray worker code: a task that preprocesses a batch, and an actor that holds the encoder.

Workers do not write to the store; the job's own process does (`embed.engines.ray_engine`).
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embed.clip.encoder import load_encoder
from embed.clip.hardware import choose_device
from embed.clip.options import EncoderRequest
from embed.clip.preprocessor import Preprocessor, load_preprocessor
from embed.engines.fill import Batch, encode_what_fits
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
    """Read and decode pictures, or tokenise texts, in a task; spec: of the encoders, as JSON."""
    return _prepare(_inputs(model, spec), root, kind, items)


@lru_cache(maxsize=1)
def _inputs(model: str, spec: str) -> Preprocessor:
    torch.set_num_threads(1)  # a task has one CPU
    return load_preprocessor(model, json.loads(spec))


def _prepare(inputs: Preprocessor, root: Path, kind: str, items: Items) -> PreparedBatch:
    started = time.monotonic()
    with read_ahead(root, [item for _, item in items] if kind == "image" else ()) as ahead:
        made = [preparer(kind, inputs, ahead)(key, item) for key, item in items]
    # Ray passes arrays through shared memory; tensors would be copied
    arrays = [item.tensor.numpy() for item in made if item.tensor is not None]
    return PreparedBatch([replace(item, tensor=None) for item in made], arrays, time.monotonic() - started)


class Encoder:
    """The actor. Loading is a separate call, so that its exceptions reach the caller unchanged."""

    def __init__(self, request: EncoderRequest, device: str) -> None:
        self._request, self._device = request, device

    def load(self) -> Facts:
        """Load the model. Raises EncoderUnavailable."""
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
        encode = self._encoder.image_features if kind == "image" else self._encoder.text_features
        size = self._encoder.batch_size(kind)
        items: list[Prepared] = []
        vectors = [np.empty((0, 0), np.float32)]
        preparing = encoding = 0.0
        for batch in batches:
            started = time.monotonic()
            if batch.arrays:
                made, size = encode_what_fits(encode, [torch.tensor(array) for array in batch.arrays], size)
                vectors.append(made.cpu().numpy())
            items += batch.items
            preparing += batch.seconds
            encoding += time.monotonic() - started
        return Batch(items, np.concatenate(vectors[1:] or vectors), preparing, encoding)
