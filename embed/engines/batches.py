"""Encode prepared items in batches: on a CPU a batch per core, on a GPU a queue that does not run empty.

A GPU computes asynchronously. While it has `_IN_FLIGHT` batches to do, the next one is collected, stacked and launched,
and the one before is copied to pinned memory and taken, so that neither of them is waited for.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cache import cores
from embed.base.memory import TooLittleMemory, is_out_of_memory
from embed.base.threads import run_ahead
from embed.engines.prepare import Prepared

# Batches launched on a GPU before the oldest is waited for: one is computed while the next is launched.
_IN_FLIGHT = 2
Prepare = Callable[[str, Any], Prepared]
Encode = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Batch:
    """Items, the (N, D) float32 vectors of the N that did not fail, and the seconds of preprocessing and encoding.

    Seconds on a CPU are those of one core, on a GPU the time spent waiting for either.
    """

    items: list[Prepared]
    vectors: np.ndarray
    preparing: float
    encoding: float


class Encoder(Protocol):
    """See `embed.clip.encoder.ClipEncoder`."""

    @property
    def device(self) -> torch.device: ...

    def batch_size(self, kind: str) -> int: ...

    def image_features(self, pixels: Sequence[Tensor], /) -> Tensor: ...

    def text_features(self, tokens: Sequence[Tensor], /) -> Tensor: ...


class Copy(Protocol):
    """Vectors on their way from the device to this machine's memory."""

    def ready(self) -> bool:
        """Whether `rows` returns at once."""

    def rows(self) -> np.ndarray:
        """Wait, and return the (N, D) float32 vectors."""


class GpuCopy:
    """A copy out of GPU memory, in the order of the GPU's work. Pinned memory is reused by torch's host allocator."""

    def __init__(self, vectors: Tensor) -> None:
        self._host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        self._host.copy_(vectors, non_blocking=True)
        self._done = torch.cuda.Event(blocking=True)  # a thread that spins would take a core from decoding
        self._done.record()

    def ready(self) -> bool:
        return self._done.query()

    def rows(self) -> np.ndarray:
        self._done.synchronize()
        return self._host.numpy().copy()


class Here:
    """Vectors that are in this machine's memory already."""

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def ready(self) -> bool:
        return True

    def rows(self) -> np.ndarray:
        return self._vectors.numpy()


@dataclass(frozen=True)
class Encoding:
    """How batches are encoded.

    encode: N tensors -> (N, D) float32 on the device; batch_size: items per batch; on_gpu: whether `encode` is
    asynchronous, and called in one thread; copy: starts the copy of its vectors to this machine's memory.
    """

    encode: Encode
    batch_size: int
    on_gpu: bool = False
    copy: Callable[[Tensor], Copy] = Here

    @classmethod
    def of(cls, encoder: Encoder, kind: str) -> "Encoding":
        """The encoding of "image" or "text" by an encoder."""
        encode = encoder.image_features if kind == "image" else encoder.text_features
        on_gpu = encoder.device.type == "cuda"
        return cls(encode, encoder.batch_size(kind), on_gpu, GpuCopy if on_gpu else Here)


class Batches(Protocol):
    """Batches of items that are prepared in threads."""

    def encoded(self) -> Generator[Batch, None, None]:
        """The batches, in order; an exception of a thread or of the encoder comes at its batch."""

    def rest(self) -> Iterator[Batch]:
        """After an exception: the batches that are encoded and were not yielded."""


class CpuBatches:
    """Each core prepares and encodes whole batches in one thread, so no core waits for another."""

    def __init__(self, items: Iterable[tuple[str, Any]], prepare: Prepare, encoding: Encoding) -> None:
        self._items, self._prepare, self._encoding = items, prepare, encoding
        self._done: dict[int, Batch] = {}

    def encoded(self) -> Generator[Batch, None, None]:
        threads = torch.get_num_threads()
        numbered = enumerate(_batched(self._items, self._encoding.batch_size))
        try:
            # one torch thread per worker: more would synchronise at the end of every matrix product
            ahead = run_ahead(self._work, numbered, 2 * cores(), start=lambda: torch.set_num_threads(1))
            with closing(ahead):
                for number in ahead:
                    yield self._done.pop(number)
        finally:
            torch.set_num_threads(threads)

    def rest(self) -> Iterator[Batch]:
        for number in sorted(self._done):
            yield self._done.pop(number)

    def _work(self, numbered: tuple[int, list[tuple[str, Any]]]) -> int:
        number, batch = numbered
        started = time.monotonic()
        items = [self._prepare(key, item) for key, item in batch]
        prepared = time.monotonic()
        good = [item.tensor for item in items if item.tensor is not None]
        vectors = self._encoding.encode(good).numpy() if good else np.empty((0, 0), np.float32)
        items = [item.without_tensor() for item in items]
        self._done[number] = Batch(items, vectors, prepared - started, time.monotonic() - prepared)
        return number


@dataclass(frozen=True)
class _Launched:
    """A batch that a GPU computes; copy: None if all its items failed; seconds of waiting for them, and of launching."""

    items: list[Prepared]
    copy: Copy | None
    waited: float
    launching: float

    def finished(self) -> Batch:
        started = time.monotonic()
        rows = np.empty((0, 0), np.float32) if self.copy is None else self.copy.rows()
        return Batch(self.items, rows, self.waited, self.launching + time.monotonic() - started)


class GpuBatches:
    """All cores prepare, and the GPU encodes one batch after the other, in batches of half the size if need be."""

    def __init__(self, prepared: Generator[Prepared, None, None], encoding: Encoding) -> None:
        self._prepared, self._encode, self._size = prepared, encoding.encode, encoding.batch_size
        self._copy = encoding.copy
        self._launched: deque[_Launched] = deque()

    @classmethod
    def of(cls, items: Iterable[tuple[str, Any]], prepare: Prepare, encoding: Encoding) -> "GpuBatches":
        """Batches of (key, item), which one thread per core prepares."""
        return cls(run_ahead(lambda item: prepare(*item), items, 2 * encoding.batch_size), encoding)

    def encoded(self) -> Generator[Batch, None, None]:
        with closing(self._prepared) as prepared:
            started = time.monotonic()
            while items := list(islice(prepared, self._size)):
                self._launch(items, time.monotonic() - started)
                while self._launched and (len(self._launched) > _IN_FLIGHT or self._is_ready()):
                    yield self._next()
                started = time.monotonic()
        yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        while self._launched:
            yield self._next()

    def _launch(self, items: list[Prepared], waited: float) -> None:
        started = time.monotonic()
        good = [item.tensor for item in items if item.tensor is not None]
        copy = None
        if good:
            vectors, self._size = encode_what_fits(self._encode, good, self._size)
            copy = self._copy(vectors)
        bare = [item.without_tensor() for item in items]
        self._launched.append(_Launched(bare, copy, waited, time.monotonic() - started))

    def _is_ready(self) -> bool:
        copy = self._launched[0].copy
        return copy is None or copy.ready()

    def _next(self) -> Batch:
        batch = self._launched[0].finished()  # removed after: Ctrl-C while it is waited for does not lose it
        self._launched.popleft()
        return batch


def encode_what_fits(encode: Encode, tensors: list[Tensor], size: int) -> tuple[Tensor, int]:
    """(N, D) vectors, in batches of `size` halved until they fit, and the last size. Raises TooLittleMemory."""
    while True:
        try:
            return torch.cat([encode(tensors[i : i + size]) for i in range(0, len(tensors), size)]), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise TooLittleMemory("a single item does not fit into GPU memory; use --device cpu") from error
        size = max(1, min(size, len(tensors)) // 2)
        torch.cuda.empty_cache()


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
