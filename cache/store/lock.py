"""Exclusive lock of a folder across processes, also on network file systems.

The lock is `flock` on a regular file in the folder: a lock on the folder itself holds on one machine only under NFS and CIFS.
The file is empty and stays; the lock ends with its process. Readers need no lock: files in the folder are complete
and immutable.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

LOCK_FILE = ".lock"
_NO_LOCKS = (
    "; this file system grants no locks, so nothing was written: let its server and its mount options allow them (NFS: lockd), "
    "or keep the artifacts on another file system"
)


@contextmanager
def locked_folder(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`'s lock, creating the folder if absent; `waiting` is called once if another process holds it.

    Waits until the other process releases it or dies, or until Ctrl-C. Raises OSError, naming the file, if it cannot
    be created or locked, and RuntimeError if this thread holds the lock already.
    """
    with _taken(folder, waiting):
        yield


def _taken(folder: Path, waiting: Callable[[], None]) -> AcquireReturnProxy:
    # filelock's fallback for file systems without locks is off: another machine cannot tell whether it is stale
    lock = FileLock(folder / LOCK_FILE, fallback_to_soft=False)
    try:
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            waiting()
            return lock.acquire()
    except OSError as error:
        advice = _NO_LOCKS if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP) else ""
        raise OSError(error.errno, f"{error.strerror} (locking){advice}", str(folder / LOCK_FILE)) from error
