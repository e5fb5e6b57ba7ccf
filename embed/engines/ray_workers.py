"""What runs on the workers of a Ray cluster: a task that prepares a batch, and an actor that holds the encoder.

They know pictures, texts and models; not the store, which the job's own process writes (`embed.engines.ray_engine`).
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

Items = list[tuple[str, str]]
"""(key, image under the root, or text) of some items."""


@dataclass(frozen=True)
class Facts:
    """What a loaded encoder says of itself; batch_sizes: items at a time, of "image" and of "text"."""

    spec: dict[str, Any]
    weights: Path
    device: str
    batch_sizes: dict[str, int]


@dataclass(frozen=True)
class PreparedBatch:
    """Items without their tensors, the tensors of those that did not fail, as arrays, and the seconds that it took."""

    items: list[Prepared]
    arrays: list[np.ndarray]
    seconds: float


def prepare(model: str, spec: str, root: Path, kind: str, items: Items) -> PreparedBatch:
    """A task's work: read and decode pictures, or tokenise texts; spec: of the encoders, as JSON."""
    return _prepare(_inputs(model, spec), root, kind, items)


@lru_cache(maxsize=1)
def _inputs(model: str, spec: str) -> Preprocessor:
    torch.set_num_threads(1)  # a task has one processor
    return load_preprocessor(model, json.loads(spec))


def _prepare(inputs: Preprocessor, root: Path, kind: str, items: Items) -> PreparedBatch:
    started = time.monotonic()
    made = [preparer(kind, inputs, root)(key, item) for key, item in items]
    # arrays go through shared memory as they are, tensors would be copied
    arrays = [item.tensor.numpy() for item in made if item.tensor is not None]
    return PreparedBatch([replace(item, tensor=None) for item in made], arrays, time.monotonic() - started)


class Encoder:
    """The actor. Loading is a call of its own, so that what goes wrong with it comes back as it is."""

    def __init__(self, request: EncoderRequest, device: str) -> None:
        self._request, self._device = request, device

    def load(self) -> Facts:
        """Load the model. Raises EncoderUnavailable."""
        device, wanted = choose_device(self._device), self._request
        self._encoder = load_encoder(wanted.model, wanted.pretrained, device, wanted.options, wanted.delta)
        if device.type == "cpu":
            torch.set_num_threads(1)  # as the local engine: each processor works on a batch of its own
        sizes = {kind: self._encoder.batch_size(kind) for kind in ("image", "text")}
        return Facts(self._encoder.spec, self._encoder.weights, str(device), sizes)

    def encode(self, kind: str, *prepared: PreparedBatch) -> Batch:
        """A shard's batches, made ready by tasks -> its vectors. Raises TooLittleMemory."""
        return self._encode(kind, prepared)

    def prepare_and_encode(self, kind: str, root: Path, *batches: Items) -> Batch:
        """A shard's batches -> its vectors, all on this processor. Raises TooLittleMemory."""
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
