"""Fill a store with one kind of vector: prepare in threads, encode in batches, close a segment every few seconds.

It knows keys, tensors and failures; not files, texts, or which model encodes.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cache import Segment, VectorStore

# A segment is closed after this many rows or seconds: little work is lost to a kill, and files stay few.
_SEGMENT_ROWS = 4096
_SEGMENT_SECONDS = 2.0


@dataclass(frozen=True)
class Prepared:
    """One item, ready for the encoder.

    tensor: pixels (3, H, W) or tokens (L,), None when it failed; tokens: their number before truncation;
    failure: why there is no tensor; lasting: whether trying again would end the same way.
    """

    key: str
    tensor: Tensor | None
    tokens: int = 0
    failure: str = ""
    lasting: bool = True


@dataclass
class Filled:
    """What a fill did: vectors added, and {key: reason} of failures that the store does not keep."""

    added: int = 0
    passing: dict[str, str] = field(default_factory=dict)


def fill(
    store: VectorStore,
    kind: str,
    todo: dict[str, Any],
    prepare: Callable[[str, Any], Prepared],
    encode: Callable[[Tensor], np.ndarray],
    batch_size: int,
) -> Filled:
    """Embed {key: item} into `store`. `prepare` runs in threads; `encode` maps (N, ...) to (N, D) in this one.

    On Ctrl-C, or when `encode` fails, what is encoded is written before the exception goes on.
    """
    writer = _SegmentWriter(store, kind)
    filled = Filled()
    with (
        tqdm(total=len(todo), unit=f" {kind}s", desc=f"{kind}s", mininterval=0.5) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            prepared = _ahead(pool, prepare, todo, 2 * batch_size)
            while batch := list(islice(prepared, batch_size)):
                _take(batch, encode, writer, filled)
                bar.update(len(batch))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            writer.close_segment()
    return filled


def _take(
    batch: list[Prepared], encode: Callable[[Tensor], np.ndarray], writer: "_SegmentWriter", filled: Filled
) -> None:
    good = [item for item in batch if item.tensor is not None]
    if good:
        writer.add(good, encode(torch.stack([item.tensor for item in good])))
        filled.added += len(good)
    bad = {item.key: item for item in batch if item.tensor is None}
    writer.add_failures({key: item.failure for key, item in bad.items() if item.lasting})
    filled.passing |= {key: item.failure for key, item in bad.items() if not item.lasting}


def _ahead(
    pool: ThreadPoolExecutor, prepare: Callable[[str, Any], Prepared], todo: dict[str, Any], depth: int
) -> Iterator[Prepared]:
    """Prepared items in order, with at most `depth` of them in memory."""
    waiting: deque[Future[Prepared]] = deque()
    for key, item in todo.items():
        waiting.append(pool.submit(prepare, key, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _SegmentWriter:
    """Collects rows and writes them as a segment when there are enough of them, or when it is time."""

    def __init__(self, store: VectorStore, kind: str) -> None:
        self._store, self._kind = store, kind
        self._clear()

    def add(self, items: Iterable[Prepared], vectors: np.ndarray) -> None:
        self._items.extend(items)
        self._vectors.append(vectors)
        if len(self._items) >= _SEGMENT_ROWS or time.monotonic() - self._opened > _SEGMENT_SECONDS:
            self.close_segment()

    def add_failures(self, failures: dict[str, str]) -> None:
        self._failures |= failures

    def close_segment(self) -> None:
        """Write what has been collected, if anything."""
        items, batches, failures = self._items, self._vectors, self._failures
        self._clear()  # first: rows that the disk refused are not offered to it again on the way out
        if items or failures:
            vectors = np.concatenate(batches) if batches else np.empty((0, 0), np.float32)
            tokens = np.array([item.tokens for item in items], np.int32)
            self._store.add(self._kind, Segment([item.key for item in items], vectors, tokens, failures))

    def _clear(self) -> None:
        self._items: list[Prepared] = []
        self._vectors: list[np.ndarray] = []
        self._failures: dict[str, str] = {}
        self._opened = time.monotonic()
