"""Read picture files, and compute their keys: each file is read once and hashed, none is decoded.

A file with the same size and times as in an earlier run, or behind a URL with the same ETag, is not read.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cache import content_key

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# Size limit of a picture file, which is read into memory.
MAX_FILE_BYTES = 100_000_000
# Object stores are latency-bound: concurrent requests per worker thread.
_REQUESTS_AT_ONCE = 8
_BLOCK = 1 << 20


Known: TypeAlias = tuple[str, str]
"""A picture, and its file's stamp in an earlier run, "" without one."""


class Outcome(NamedTuple):
    """A picture file's stamp and key, or the problem that prevented them."""

    stamp: str
    key: str
    problem: str


class UnusableFile(ValueError):
    """A picture's file cannot be read."""


def read_picture(path: "Path | RemotePath") -> bytes:
    """A picture file's bytes. Raises UnusableFile if it is absent, unreadable or larger than MAX_FILE_BYTES."""
    with _unusable_file(path):
        if isinstance(path, Path):
            _check_size(path.stat().st_size)
        with path.open("rb") as file:
            # an object store reports the size in its first response
            _check_size(getattr(file, "size", None) or 0)
            data = _read_at_most(file, MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return data


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UnusableFile(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    """The first `limit` bytes: a file may grow, and a server's response may never end."""
    blocks = []
    while limit and (block := file.read(min(limit, _BLOCK))):
        blocks.append(block)
        limit -= len(block)
    return b"".join(blocks)


@contextmanager
def _unusable_file(path: "Path | RemotePath") -> Iterator[None]:
    """Raise any error of reading a file as UnusableFile."""
    try:
        yield
    except UnusableFile:
        raise
    except OSError as error:
        raise UnusableFile(_why(path, error)) from error
    except Exception as error:
        if isinstance(path, Path) or isinstance(error, MemoryError):
            raise
        raise UnusableFile(_why(path, error)) from error  # object stores raise their own types


def _why(path: "Path | RemotePath", error: Any) -> str:
    if isinstance(path, Path):
        return f"the file cannot be read ({error.strerror})"
    from embed.pictures.remote import why

    return why(error)


def hash_part(root: "Path | RemotePath", part: list[Known]) -> list[Outcome | None]:
    """The outcome of each picture under `root`, None for a file whose stamp is the known one."""
    if isinstance(root, Path):
        folder = str(root)
        return [
            None if stamp and _local_stamp(f"{folder}/{image}") == stamp else _outcome(root / image, stamp)
            for image, stamp in part
        ]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(lambda known: _outcome(root / known[0], known[1]), part))


def _outcome(path: "Path | RemotePath", known: str) -> Outcome | None:
    try:
        # taken before the file is read: a change in between gives another stamp in the next run
        with _unusable_file(path):
            stamp = _stamp(path)
        if stamp and stamp == known:
            return None
        return Outcome(stamp, content_key(read_picture(path)), "")
    except UnusableFile as error:
        return Outcome("", "", str(error))


def _stamp(path: "Path | RemotePath") -> str:
    """The stamp in the format of an index, "" without one."""
    if isinstance(path, Path):
        return _local_stamp(str(path))
    from embed.pictures.remote import stamp

    return stamp(path)


def _local_stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    # size and times only, as in existing indexes
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
