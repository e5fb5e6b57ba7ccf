"""Atomic writes of files and folders: a kill at any moment leaves the old or the new version."""

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A full disk, a quota or a limit that is reached, a broken disk: errors of write() that name no file.
_OF_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path`, fsync it and rename it to `path`; missing parent folders are created.

    The temporary name starts with a dot and ends in `.tmp`; a leftover after a kill is harmless.
    Raises OSError, which names `path`, when the disk is full or the folder cannot be written.
    """
    with naming(path):
        _write_atomically(path, data)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files readable by their owner alone
        temporary.chmod(0o666 & ~_umask())
        temporary.write_bytes(data)
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


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
    """Name `path` in an OSError of write(), which says only "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_WRITE or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
