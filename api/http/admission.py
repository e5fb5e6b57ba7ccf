"""How many memes may be under way at once; whoever comes beyond that is told to come again."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Overloaded(RuntimeError):
    """As many memes are under way as the server takes, or it is stopping."""

    # Places come free all the time; a full queue of ViT-B-32 takes two cores one and a half.
    retry_after = 1


class Admission:
    """Counts memes, so that a batch of sixteen takes sixteen places."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._lock = Lock()

    def under_way(self) -> int:
        """Memes admitted and not yet answered."""
        return self._taken

    @contextmanager
    def places(self, count: int = 1) -> Iterator[None]:
        """Hold `count` places. Raises Overloaded at once when they are not free."""
        with self._lock:
            if self._taken + count > self.most:
                raise Overloaded(
                    f"{self._taken} memes are under way and the server takes {self.most} at a time; come again in "
                    f"{Overloaded.retry_after} s"
                )
            self._taken += count
        try:
            yield
        finally:
            with self._lock:
                self._taken -= count
