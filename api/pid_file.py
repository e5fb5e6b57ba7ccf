"""The file with a server's process id, by which `reload` finds it.

The server locks it while it runs, so that a stale file is recognised.
"""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold the file with this process's id inside the block; None for no file.

    Raises ValueError if another running server holds it, OSError e.g. for a missing folder.
    """
    if path is None:
        yield
        return
    with path.open("a+", encoding="ascii") as file:
        if not _locked(file, fcntl.LOCK_EX):
            raise ValueError(f"pid_file: {path} belongs to a running server; stop it, or give another file")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def ask_to_reload(pid_file: Path) -> str:
    """Send SIGHUP to the server of this file; says so. Raises ValueError if none runs, OSError without permission."""
    try:
        with pid_file.open(encoding="ascii") as file:
            if _locked(file, fcntl.LOCK_SH):
                raise ValueError(f"{pid_file}: left by a server that no longer runs")
            process = int(file.read())
    except FileNotFoundError as error:
        raise ValueError(f"{pid_file}: no such file; start the server with --pid-file {pid_file}") from error
    os.kill(process, signal.SIGHUP)
    return f"process {process} loads the bundle that is in use; its log says which, and which it was"


def _locked(file: TextIO, how: int) -> bool:
    """Whether the lock could be taken: it is, until the file is closed."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
