"""Admission control: limits the number of memes in progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Overloaded(RuntimeError):
    """Too many memes are being processed, or the server is stopping."""

    # Seconds; a full queue of ViT-B-32 takes 1.5 s on two cores.
    retry_after = 1


class Admission:
    """Counts memes rather than requests: a batch of 16 counts 16."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._count = 0
        self._lock = Lock()

    def in_progress(self) -> int:
        """Number of memes admitted and not yet answered."""
        return self._count

    @contextmanager
    def admit(self, count: int = 1) -> Iterator[None]:
        """Count `count` memes as in progress. Raises Overloaded at once if the limit is exceeded."""
        with self._lock:
            if self._count + count > self.limit:
                raise Overloaded(
                    f"{self._count} memes are being processed, the limit is {self.limit}; try again in "
                    f"{Overloaded.retry_after} s"
                )
            self._count += count
        try:
            yield
        finally:
            with self._lock:
                self._count -= count
