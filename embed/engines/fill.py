"""Fill a store with vectors of one kind: preprocess, encode in batches, write segments.

On a CPU each core processes whole batches in one thread, so no core waits for another. On a GPU all cores preprocess,
and the GPU encodes one batch while the next is assembled and the previous one is fetched.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cache import Segment, VectorStore, cores
from embed.base.threads import run_ahead
from embed.engines.prepare import Prepared

# A segment is written after this many rows or seconds: a kill loses little work, and files are few.
_SEGMENT_ROWS = 4096
_SEGMENT_SECONDS = 2.0
Encode = Callable[[Sequence[Tensor]], Tensor]


@dataclass
class Filled:
    """The result of a fill: vectors added, {key: reason} of failures that are not stored, and seconds.

    preparing, encoding: on a CPU the sum over all cores, on a GPU the time spent waiting for either.
    """

    added: int = 0
    transient_failures: dict[str, str] = field(default_factory=dict)
    preparing: float = 0.0
    encoding: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Items, the (N, D) float32 vectors of the N that did not fail, and the seconds of preprocessing and encoding."""

    items: list[Prepared]
    vectors: np.ndarray
    preparing: float
    encoding: float


class TooLittleMemory(ValueError):
    """A single item does not fit into GPU memory."""


def fill(
    store: VectorStore,
    kind: str,
    todo: dict[str, Any],
    prepare: Callable[[str, Any], Prepared],
    encode: Encode,
    device: torch.device,
    batch_size: int,
) -> Filled:
    """Embed {key: item} into `store`. `prepare` runs in threads; `encode` maps N tensors to (N, D) float32 on `device`.

    kind: "image" or "text"; batch_size: items per batch, reduced on a GPU if its memory is too small. On Ctrl-C, or if
    `encode` fails, encoded vectors are written before the exception propagates. Raises TooLittleMemory; ValueError for
    vectors with NaN or infinite numbers, whose segment is dropped; OSError, e.g. when the disk is full; and the
    exceptions of `encode`.
    """
    writer = SegmentWriter(store, kind)
    filled = Filled()
    batches = (_batches_on_gpu if device.type == "cuda" else _batches_on_cpu)(todo, prepare, encode, batch_size)
    with tqdm(total=len(todo), unit=f" {kind}s", desc=f"{kind}s", mininterval=0.5) as bar:
        try:
            for batch in batches:
                take(batch, writer, filled)
                bar.set_postfix_str(shares(kind, filled), refresh=False)
                bar.update(len(batch.items))
        finally:
            batches.close()
            writer.close_segment()
    return filled


def _batches_on_cpu(
    todo: dict[str, Any], prepare: Callable[[str, Any], Prepared], encode: Encode, size: int
) -> Generator[Batch, None, None]:
    def work(batch: list[tuple[str, Any]]) -> Batch:
        started = time.monotonic()
        items = [prepare(key, item) for key, item in batch]
        prepared = time.monotonic()
        good = [item.tensor for item in items if item.tensor is not None]
        vectors = encode(good).numpy() if good else np.empty((0, 0), np.float32)
        return Batch(items, vectors, prepared - started, time.monotonic() - prepared)

    threads = torch.get_num_threads()
    try:
        # one torch thread per worker: more would synchronise at the end of every matrix product
        yield from run_ahead(work, _batched(todo, size), 2 * cores(), start=lambda: torch.set_num_threads(1))
    finally:
        torch.set_num_threads(threads)


def _batches_on_gpu(
    todo: dict[str, Any], prepare: Callable[[str, Any], Prepared], encode: Encode, size: int
) -> Generator[Batch, None, None]:
    prepared = run_ahead(lambda item: prepare(*item), todo.items(), 2 * size)
    in_progress: tuple[list[Prepared], Tensor | None, float] | None = None
    while True:
        started = time.monotonic()
        items = list(islice(prepared, size))
        waited = time.monotonic() - started
        good = [item.tensor for item in items if item.tensor is not None]
        vectors, size = encode_what_fits(encode, good, size) if good else (None, size)
        if in_progress:
            yield _fetched(*in_progress)
        if not items:
            return
        in_progress = (items, vectors, waited)


def _fetched(items: list[Prepared], vectors: Tensor | None, waited: float) -> Batch:
    """Wait for the GPU, which runs asynchronously, and copy the vectors."""
    started = time.monotonic()
    rows = np.empty((0, 0), np.float32) if vectors is None else vectors.cpu().numpy()
    return Batch(items, rows, waited, time.monotonic() - started)


def encode_what_fits(encode: Encode, tensors: list[Tensor], size: int) -> tuple[Tensor, int]:
    """(N, D) vectors, in batches of `size` halved until they fit, and the last size. Raises TooLittleMemory."""
    while True:
        try:
            return torch.cat([encode(tensors[i : i + size]) for i in range(0, len(tensors), size)]), size
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise TooLittleMemory("a single item does not fit into GPU memory; use --device cpu") from error
        size = max(1, min(size, len(tensors)) // 2)
        torch.cuda.empty_cache()


def _batched(todo: dict[str, Any], size: int) -> Iterator[list[tuple[str, Any]]]:
    items = iter(todo.items())
    while batch := list(islice(items, size)):
        yield batch


def take(batch: Batch, writer: "SegmentWriter", filled: Filled) -> None:
    """Pass a batch to the writer and add it to the totals. Raises as `SegmentWriter.add`."""
    bad = {item.key: item for item in batch.items if item.failure}
    writer.add_failures({key: item.failure for key, item in bad.items() if item.lasting})
    good = [item for item in batch.items if not item.failure]
    if good:
        writer.add(good, batch.vectors)
        filled.added += len(good)
    filled.transient_failures |= {key: item.failure for key, item in bad.items() if not item.lasting}
    filled.preparing += batch.preparing
    filled.encoding += batch.encoding


def shares(kind: str, filled: Filled) -> str:
    """Shares of time spent on preprocessing and encoding, for the progress bar."""
    total = filled.preparing + filled.encoding or 1.0
    first = "decode" if kind == "image" else "tokenise"
    return f"{first} {filled.preparing / total:.0%}, model {filled.encoding / total:.0%}"


class SegmentWriter:
    """Collects rows of one kind, "image" or "text", and writes a segment after a number of rows or seconds."""

    def __init__(self, store: VectorStore, kind: str) -> None:
        self._store, self._kind = store, kind
        self._clear()

    def add(self, items: Iterable[Prepared], vectors: np.ndarray) -> None:
        """Add N successful items and their (N, D) float32 vectors, with constant D. Raises as `close_segment`."""
        self._items.extend(items)
        self._vectors.append(vectors)
        if len(self._items) >= _SEGMENT_ROWS or time.monotonic() - self._opened >= _SEGMENT_SECONDS:
            self.close_segment()

    def add_failures(self, failures: dict[str, str]) -> None:
        """Add {key: reason} of permanent failures to the next segment."""
        self._failures |= failures

    def close_segment(self) -> None:
        """Write the collected rows and failures, if any; they are dropped on an error.

        Raises OSError, e.g. when the disk is full, and ValueError for NaN or infinite numbers or different D.
        """
        items, batches, failures = self._items, self._vectors, self._failures
        self._clear()  # first, so that rows that failed to be written are not tried again at exit
        if items or failures:
            vectors = np.concatenate(batches) if batches else np.empty((0, 0), np.float32)
            tokens = np.array([item.tokens for item in items], np.int32)
            self._store.add(self._kind, Segment([item.key for item in items], vectors, tokens, failures))

    def _clear(self) -> None:
        self._items: list[Prepared] = []
        self._vectors: list[np.ndarray] = []
        self._failures: dict[str, str] = {}
        self._opened = time.monotonic()
