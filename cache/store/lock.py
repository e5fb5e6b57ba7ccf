"""One writer at a time: an exclusive lock on a small file in the folder, which holds on network file systems too.

The file stays there, empty; the lock dies with the process. It knows nothing of what else stands in the folder. Readers
need no lock: files there are whole and never change.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

LOCK_FILE = ".lock"


@contextmanager
def locked_folder(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`'s lock, making the folder if it is absent; call `waiting` once when another process has it.

    The wait ends when the other process lets go or dies, or at Ctrl-C. Raises OSError, naming the folder, where it
    cannot be made or locked, and RuntimeError where this very thread has the lock already.
    """
    with _taken(folder, waiting):
        yield


def _taken(folder: Path, waiting: Callable[[], None]) -> AcquireReturnProxy:
    # not filelock's own stand-in for a file system without locks: another machine cannot tell whether it is stale
    lock = FileLock(folder / LOCK_FILE, fallback_to_soft=False)
    try:
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            waiting()
            return lock.acquire()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (locking)", str(folder)) from error
