"""Read picture files, and compute their keys: each file is read once and hashed, none is decoded.

A file with the same size and times as in an earlier run, or behind a URL with the same ETag, is not read.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from cache import content_key

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# Size limit of a picture file, which is read into memory.
MAX_FILE_BYTES = 100_000_000
_BLOCK = 1 << 20


Known: TypeAlias = tuple[str, str, str | None]
"""A picture, its file's stamp in an earlier run, "" without one, and its stamp in a listing of now, None where it is not listed."""


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
        data = _read_file(path) if isinstance(path, Path) else path.read(MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return data


def read_ahead(root: Path, images: Iterable[str]) -> AbstractContextManager[Path]:
    """The root for `read_picture` of these pictures, about in this order; an object store is asked for several at once."""
    if isinstance(root, Path):
        return nullcontext(root)
    from embed.pictures import remote

    return cast(AbstractContextManager[Path], remote.read_ahead(root, images, MAX_FILE_BYTES + 1))


def _read_file(path: Path) -> bytes:
    _check_size(path.stat().st_size)
    with path.open("rb") as file:
        return _read_at_most(file, MAX_FILE_BYTES + 1)


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UnusableFile(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    """The first `limit` bytes: a file may grow."""
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
            None if stamp and _stamp(f"{folder}/{image}") == stamp else _outcome(root / image, _of_file, stamp, None)
            for image, stamp, _ in part
        ]
    from embed.pictures.fetching import REQUESTS_AT_ONCE

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(lambda known: _outcome(root / known[0], _of_store, *known[1:]), part))


def _outcome(
    path: Any, work: Callable[[Any, str, str | None], Outcome | None], known: str, listed: str | None
) -> Outcome | None:
    try:
        with _unusable_file(path):
            return work(path, known, listed)
    except UnusableFile as error:
        return Outcome("", "", str(error))


def _of_file(path: Path, known: str, _: str | None) -> Outcome | None:
    # taken before the file is read: a change in between gives another stamp in the next run
    stamp = _stamp(str(path))
    return None if stamp and stamp == known else Outcome(stamp, content_key(read_picture(path)), "")


def _of_store(path: "RemotePath", known: str, listed: str | None) -> Outcome | None:
    """In one request, or none if the listing says that the picture is unchanged."""
    stamp = listed or ""
    if listed is None and (known or not path.says_stamp):
        stamp = path.stamp()
    if stamp and stamp == known:
        return None
    data, said = path.read_with_stamp(MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return Outcome(stamp or said, content_key(data), "")


def _stamp(path: str) -> str:
    """A file's stamp in the format of an index, "" without one."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    # size and times only, as in existing indexes
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
