"""One writer at a time: an exclusive lock on a folder itself, which leaves no file and dies with the process.

It knows nothing of what stands in the folder. Readers need no lock: files there are whole and never change.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_folder(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`'s lock, making the folder if it is absent; call `waiting` once when another process has it.

    The wait ends when the other process lets go or dies, or at Ctrl-C. Raises OSError, naming the folder, where it
    cannot be made or locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _take(handle, folder, waiting)
        yield
    finally:
        os.close(handle)  # lets go of the lock


def _take(handle: int, folder: Path, waiting: Callable[[], None]) -> None:
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # a file system without locks says nothing of the folder
        raise OSError(error.errno, f"{error.strerror} (locking)", str(folder)) from error
