"""The vectors, and the words read, of pictures and texts that came before: popular memes come again and again.

Kept by content hash, the least recently used forgotten first. Knows nothing of models; one store per encoder.
"""

from collections.abc import Hashable
from threading import Lock
from typing import Any

from cachetools import LRUCache

from api.metrics import Metrics


class Remembered:
    """At most `size` values of each kind ("image", "text", "ocr"); safe to use from many threads."""

    def __init__(self, size: int, metrics: Metrics) -> None:
        self._kinds: dict[str, LRUCache[Hashable, Any]] = {kind: LRUCache(size) for kind in ("image", "text", "ocr")}
        self._lock = Lock()
        self._metrics = metrics

    def get(self, kind: str, key: Hashable) -> Any | None:
        """What is kept under `key`, or None; counted as a hit or a miss."""
        value = self.peek(kind, key)
        self._metrics.lookups.labels(kind, "miss" if value is None else "hit").inc()
        return value

    def peek(self, kind: str, key: Hashable) -> Any | None:
        """The same, not counted."""
        with self._lock:
            return self._kinds[kind].get(key)

    def put(self, kind: str, key: Hashable, value: Any) -> None:
        """Keep a value; nothing where the size is 0."""
        with self._lock:
            if self._kinds[kind].maxsize:
                self._kinds[kind][key] = value
