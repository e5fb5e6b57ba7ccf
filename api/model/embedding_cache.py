"""In-memory LRU cache of embeddings and OCR texts by content hash; one per encoder."""

from threading import Lock
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from api.metrics import Metrics


class EmbeddingCache:
    """At most `size` values of each kind ("image", "text": (D,) float32; "ocr": str). Thread-safe."""

    def __init__(self, size: int, metrics: Metrics) -> None:
        self._kinds: dict[str, Any] = {"image": _Vectors(size), "text": _Vectors(size), "ocr": LRUCache(size)}
        self._lock = Lock()
        self._metrics = metrics

    def get(self, kind: str, key: str) -> Any | None:
        """The value of `key`, or None; counted as a hit or a miss."""
        value = self.peek(kind, key)
        self._metrics.lookups.labels(kind, "miss" if value is None else "hit").inc()
        return value

    def peek(self, kind: str, key: str) -> Any | None:
        """As `get`, but not counted: for a second look-up after a miss."""
        with self._lock:
            return self._kinds[kind].get(key)

    def put(self, kind: str, key: str, value: Any) -> None:
        """Store a value; does nothing if the size is 0."""
        with self._lock:
            if self._kinds[kind].maxsize:
                self._kinds[kind][key] = value


class _Vectors:
    """LRU cache whose vectors are rows of one tensor: separate tensors would fragment the heap (84 MB of growth in the
    second minute of `bench.load` instead of 45)."""

    def __init__(self, size: int) -> None:
        self.maxsize = size
        self._rows: LRUCache[str, int] = LRUCache(size)  # key: row
        self._vectors: Tensor | None = None  # (size, D); pages are allocated as rows are filled

    def get(self, key: str) -> Tensor | None:
        row = self._rows.get(key)
        return None if row is None or self._vectors is None else self._vectors[row].clone()

    def __setitem__(self, key: str, vector: Tensor) -> None:
        if key in self._rows:  # the same content has the same vector
            return
        if self._vectors is None:
            self._vectors = torch.empty(self.maxsize, *vector.shape, dtype=vector.dtype, device=vector.device)
        row = self._rows.popitem()[1] if len(self._rows) == self.maxsize else len(self._rows)
        self._vectors[row] = vector
        self._rows[key] = row
