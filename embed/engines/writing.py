"""Write encoded batches to a store: failures apart, rows collected into segments, segments written by a thread.

A kill loses the rows being collected and the few segments that the thread has in hand.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from cache import Segment, VectorStore
from embed.engines.batches import Batch
from embed.engines.prepare import Prepared

# A segment is written after this many rows or seconds: a kill loses little work, and files are few.
_SEGMENT_ROWS = 4096
_SEGMENT_SECONDS = 2.0
# Segments that wait while one is written: a slow disk stops the job before it fills the memory.
_WAITING = 1
# So many items of a run are not all odd ones.
_MOST_ODD = 32
NOT_FINITE = "its vector has NaN or infinite numbers: the encoder cannot embed it"


class BrokenEncoder(ValueError):
    """No vector of the encoder is finite."""


@dataclass
class Filled:
    """The result of a fill: vectors added, {key: reason} of failures that are not stored, and seconds.

    preparing, encoding: see `embed.engines.batches.Batch`; on a CPU the sum over all cores.
    """

    added: int = 0
    transient_failures: dict[str, str] = field(default_factory=dict)
    preparing: float = 0.0
    encoding: float = 0.0


class BatchWriter:
    """A context that takes batches of one kind, "image" or "text", and shows progress.

    On leaving it, also by an exception, all that was taken is written. filled: the totals so far.
    """

    def __init__(self, store: VectorStore, kind: str, total: int) -> None:
        self.filled = Filled()
        self._store, self._kind = store, kind
        self._bar = tqdm(total=total, unit=f" {kind}s", desc=f"{kind}s", mininterval=0.5)
        self._thread = _Thread(lambda segment: store.add(kind, segment))
        self._not_finite: list[str] = []
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()
        with closing(self._thread):
            try:
                if error is None or self.filled.added:
                    self._sort_out_not_finite()
            finally:
                self._close_segment()

    def take(self, batch: Batch) -> None:
        """Add a batch; its vectors have the same D as those before.

        Raises OSError of an earlier segment, e.g. when the disk is full, and BrokenEncoder if no vector is finite.
        """
        failed = [item for item in batch.items if item.failure]
        self._failures |= {item.key: item.failure for item in failed if item.lasting}
        self.filled.transient_failures |= {item.key: item.failure for item in failed if not item.lasting}
        self._add([item for item in batch.items if not item.failure], batch.vectors)
        self.filled.preparing += batch.preparing
        self.filled.encoding += batch.encoding
        self._bar.set_postfix_str(_shares(self._kind, self.filled), refresh=False)
        self._bar.update(len(batch.items))
        if len(self._not_finite) >= _SEGMENT_ROWS:
            self._sort_out_not_finite()
        if len(self._items) >= _SEGMENT_ROWS or time.monotonic() - self._opened >= _SEGMENT_SECONDS:
            self._close_segment()

    def _add(self, items: list[Prepared], vectors: np.ndarray) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            self._not_finite += [item.key for item, good in zip(items, finite, strict=True) if not good]
            items, vectors = [item for item, good in zip(items, finite) if good], vectors[finite]
        if items:
            self._items += items
            self._vectors.append(vectors)
            self.filled.added += len(items)

    def _sort_out_not_finite(self) -> None:
        """Record odd items as failures; many of them, or the first ever, and no other vector: the encoder is broken."""
        if not self._not_finite:
            return
        odd = len(self._not_finite) < _MOST_ODD and len(self._store.keys(self._kind))
        if not self.filled.added and not odd:
            raise BrokenEncoder(
                f"all {len(self._not_finite)} {self._kind} vectors have NaN or infinite numbers: the weights are damaged, "
                "or too large for this precision; try --precision fp32 (PRECISION=fp32)"
            )
        self._failures |= dict.fromkeys(self._not_finite, NOT_FINITE)
        self._not_finite = []

    def _close_segment(self) -> None:
        if self._items or self._failures:
            vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), np.float32)
            tokens = np.array([item.tokens for item in self._items], np.int32)
            self._thread.put(Segment([item.key for item in self._items], vectors, tokens, self._failures))
        self._clear()  # last: Ctrl-C while a slow disk is waited for does not lose them

    def _clear(self) -> None:
        self._items: list[Prepared] = []
        self._vectors: list[np.ndarray] = []
        self._failures: dict[str, str] = {}
        self._opened = time.monotonic()


def _shares(kind: str, filled: Filled) -> str:
    """Shares of time spent on preprocessing and encoding, for the progress bar."""
    total = filled.preparing + filled.encoding or 1.0
    first = "decode" if kind == "image" else "tokenise"
    return f"{first} {filled.preparing / total:.0%}, model {filled.encoding / total:.0%}"


class _Thread:
    """Writes segments in order; after an error it writes no more, and the error is raised by the next call."""

    def __init__(self, write: Callable[[Segment], None]) -> None:
        self._write = write
        self._queue: Queue[Segment | None] = Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="segments", daemon=True)
        self._thread.start()

    def put(self, segment: Segment) -> None:
        """Write a segment later; wait while the queue is full."""
        self._check()
        self._queue.put(segment)

    def close(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (segment := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(segment)
                except BaseException as error:  # noqa: BLE001 (raised by `_check` in the thread that waits for it)
                    self._error = error
