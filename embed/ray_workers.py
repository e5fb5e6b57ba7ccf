"""What runs on the workers of a Ray cluster: a task that prepares a batch, and an actor that holds the encoder.

They know pictures, texts and models; not the store, which the job's own process writes (`embed.ray_engine`).
"""

import json
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embed.encoder import choose_device, load_encoder
from embed.fill import Batch, encode_what_fits
from embed.inputs import Inputs, load_inputs
from embed.prepare import Prepared, preparer
from embed.profile import EncoderRequest

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
    """Read and decode pictures, or tokenise texts; spec: of the encoders, as JSON."""
    started = time.monotonic()
    made = [preparer(kind, _inputs(model, spec), root)(key, item) for key, item in items]
    # arrays go through shared memory as they are, tensors would be copied
    arrays = [item.tensor.numpy() for item in made if item.tensor is not None]
    return PreparedBatch([replace(item, tensor=None) for item in made], arrays, time.monotonic() - started)


@lru_cache(maxsize=1)
def _inputs(model: str, spec: str) -> Inputs:
    torch.set_num_threads(1)  # a task has one processor
    return load_inputs(model, json.loads(spec))


class Encoder:
    """The actor. Loading is a call of its own, so that what goes wrong with it comes back as it is."""

    def __init__(self, request: EncoderRequest, device: str) -> None:
        self._request, self._device = request, device

    def load(self) -> Facts:
        """Load the model. Raises EncoderUnavailable."""
        device, wanted = choose_device(self._device), self._request
        self._encoder = load_encoder(wanted.model, wanted.pretrained, device, wanted.profile, wanted.delta)
        if device.type == "cpu":
            torch.set_num_threads(1)  # as the local engine: each processor works on a batch of its own
        sizes = {kind: self._encoder.batch_size(kind) for kind in ("image", "text")}
        return Facts(self._encoder.spec, self._encoder.weights, str(device), sizes)

    def encode(self, kind: str, *prepared: PreparedBatch) -> Batch:
        """A shard's batches -> its vectors. Raises TooLittleMemory."""
        started = time.monotonic()
        encode = self._encoder.image_features if kind == "image" else self._encoder.text_features
        size = self._encoder.batch_size(kind)
        vectors = [np.empty((0, 0), np.float32)]
        for batch in prepared:
            if batch.arrays:
                made, size = encode_what_fits(encode, [torch.tensor(array) for array in batch.arrays], size)
                vectors.append(made.cpu().numpy())
        return Batch(
            [item for batch in prepared for item in batch.items],
            np.concatenate(vectors[1:] or vectors),
            sum(batch.seconds for batch in prepared),
            time.monotonic() - started,
        )
