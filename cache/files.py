"""Atomic writes of files and folders: a kill at any moment leaves the old or the new version."""

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# A full disk, a quota or a limit that is reached, a broken disk, a server that forgot the file: errors of read() and write(),
# which name no file.
_OF_OPEN_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `path`; when the block succeeds, it is fsynced and renamed to `path`; missing parent
    folders are created.

    The temporary name starts with a dot and ends in `.tmp`; a leftover after a kill is harmless, see `remove_leftovers`.
    Raises OSError, which names `path`, when the disk is full or the folder cannot be written.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                # mkstemp makes files readable by their owner alone
                os.fchmod(handle, 0o666 & ~_umask())
                yield file
                file.flush()
                os.fsync(handle)
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """`written_atomically` for bytes. Raises OSError."""
    with written_atomically(path) as file:
        file.write(data)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for a text, as UTF-8. Raises OSError."""
    write_bytes_atomically(path, text.encode("utf-8"))


@contextmanager
def folder_replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; when the block succeeds, it is fsynced and replaces `folder`.

    A kill between the last two renames leaves the old version beside it, under a name ending in `.old`. Raises OSError.
    """
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    staging.mkdir(parents=True)
    try:
        with naming(folder):
            yield staging
        for path in (*staging.rglob("*"), staging):
            sync(path)
        _replace(staging, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of read() or write(), which says only "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_OPEN_FILES or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove the temporary files that killed processes left of files whose names match the pattern `names`.

    Call it where no other process writes such a file, e.g. under a lock. Raises OSError.
    """
    leftover = re.compile(rf"\.(?:{names})\.[a-z0-9_]{{8}}\.tmp")  # as mkstemp names them
    with os.scandir(folder) as entries:
        found = [entry.path for entry in entries if leftover.fullmatch(entry.name)]
    for path in found:
        Path(path).unlink(missing_ok=True)


def file_stamp(path: Path) -> list[int] | None:
    """What changes when a file does: bytes, times of modification and of change in ns, number of the inode; None for a file
    that is not there, or that cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    # The change time and the inode, too: copying tools set modification times back.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def sync(path: Path) -> None:
    """fsync a file, or a folder's directory entries. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(staging: Path, folder: Path) -> None:
    """rename() does not replace a non-empty folder, so the old one is renamed first."""
    retired = staging.with_suffix(".old")
    if not folder.exists():
        staging.rename(folder)
        return
    folder.rename(retired)
    try:
        staging.rename(folder)
    except BaseException:  # Ctrl-C too
        retired.rename(folder)
        raise
    shutil.rmtree(retired)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
