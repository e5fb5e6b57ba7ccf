"""Pictures of an object store that are requested once: kept on disk for the next step, or read ahead of it.

It opens no connection: the functions that read are given.
"""

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

# Share of the free space, in the folder for temporary files, that pictures may take.
_SHARE = 4


class Kept:
    """Bytes by name, in a temporary folder that is removed with this object. Safe for several threads.

    limit: bytes in all, None for a quarter of the free space; what does not fit is not kept. A copy in another process
    keeps nothing.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._left = limit
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[int]]:
        return Kept, (0,)

    def put(self, name: str, data: bytes) -> None:
        """Keep the bytes if there is room."""
        if self._take(len(data)):
            try:
                self._file(name).write_bytes(data)
            except OSError:  # the disk is full after all: the next step asks the store
                self._file(name).unlink(missing_ok=True)

    def get(self, name: str) -> bytes | None:
        """The bytes, None if they are not kept."""
        try:
            return self._file(name).read_bytes() if self._folder else None
        except FileNotFoundError:
            return None

    def _take(self, size: int) -> bool:
        """Reserve room; whether there is enough."""
        with self._lock:
            if self._folder is None and self._left != 0:
                self._folder = Path(tempfile.mkdtemp(prefix="meme-pictures-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            if self._left is None:
                self._left = shutil.disk_usage(tempfile.gettempdir()).free // _SHARE
            fits = size <= self._left
            self._left -= size * fits
            return fits and self._folder is not None

    def _file(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


class ReadAhead:
    """Reads (name, read) pairs in the order in which they will be asked for, `depth` at once, at most that many ahead."""

    def __init__(self, pairs: Iterable[tuple[str, Callable[[], bytes]]], depth: int) -> None:
        self._pairs, self._depth = iter(pairs), depth
        self._reading: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(depth)
        self._fill()

    def get(self, name: str) -> bytes | None:
        """The bytes, once; None if they were not read ahead. Raises the exceptions of `read`."""
        with self._lock:
            future = self._reading.pop(name, None)
            self._fill()
        return future.result() if future else None

    def close(self) -> None:
        """Cancel what is waiting; what is running is not awaited."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while len(self._reading) < self._depth and (pair := next(self._pairs, None)):
            self._reading[pair[0]] = self._pool.submit(pair[1])
