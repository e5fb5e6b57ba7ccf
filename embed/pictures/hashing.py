"""Compute the keys of a data set's pictures: each file is read once and hashed, none is decoded.

A file with the same size and times as in an earlier run, or behind a URL with the same ETag, keeps its key unread;
`--rehash` reads every file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from tqdm import tqdm

from cache import content_key, file_stamp
from embed.base.threads import run_ahead

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# Size limit of a picture file, which is read into memory.
MAX_FILE_BYTES = 100_000_000
# Files per task of a thread: a single file is less work than the hand-over.
_FILES_AT_ONCE = 64
# Pictures, spread over the data set, that are requested first from an object store: if it is down or denies access,
# each request takes the seconds of several attempts.
_FIRST_REQUESTS = 8
_BLOCK = 1 << 20


class Known(NamedTuple):
    """A picture, and its file's stamp and key in an earlier run, "" without one."""

    image: str
    stamp: str
    key: str


class Listed(Known):
    """A picture with the stamp of a listing of now; its key, if it has one, holds."""


class Outcome(NamedTuple):
    """A picture file's stamp and key, or the problem that prevented them."""

    stamp: str
    key: str
    problem: str


Part: TypeAlias = list[Known]


class UnusableFile(ValueError):
    """A picture's file cannot be read."""


class StoreUnreached(ValueError):
    """An object store failed for all pictures requested first, and the reason is not the pictures."""


@dataclass
class Hashed:
    """{image: key} and {image: stamp} of the readable pictures, and {image: reason} of the others."""

    keys: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def in_threads(work: Callable[[Part], list[Outcome]], parts: Sequence[Part]) -> Iterator[list[Outcome]]:
    """`work` of each part, in order, in threads of this machine."""
    return run_ahead(work, parts, len(parts) + 1)


def hash_pictures(
    root: Path,
    images: Iterable[str],
    hints: Mapping[str, tuple[str, str]],
    spread: Callable[[Callable[[Part], list[Outcome]], Sequence[Part]], Iterator[list[Outcome]]] = in_threads,
    note: Callable[[Part], None] = lambda part: None,
) -> Hashed:
    """The keys of the pictures under `root`. Raises StoreUnreached.

    hints: {image: (stamp, key)} of an earlier run; spread: the parallel map to use; note: called with the new or
    changed pictures of each part, so that progress survives a kill.
    """
    names = list(dict.fromkeys(images))
    asked = [Known(name, *hints.get(name, ("", ""))) for name in names]
    hashed = Hashed()
    # no bar if it takes less than a second
    with tqdm(total=len(names), desc="hashing", unit=" files", delay=1) as bar:
        for parts, now in _rounds(root, asked):
            for part, results in zip(parts, spread(partial(_hash_part, root), now), strict=True):
                _take(hashed, part, results, note)
                bar.update(len(part))
            _check_reached(root, hashed)
    return hashed


def _rounds(root: Path, asked: Part) -> Iterator[tuple[list[Part], list[Part]]]:
    """The parts in one round, or for an object store in two: first a few pictures spread over the data set.

    Each as it was in an earlier run, and with the stamps of now as far as they are listed.
    """
    if isinstance(root, Path):
        yield _parts(asked), _parts(asked)
        return
    listing = cast("RemotePath", root).listing(known.image for known in asked)
    step = max(1, len(asked) // _FIRST_REQUESTS)
    for part in (asked[::step], [item for place, item in enumerate(asked) if place % step]):
        stamps = listing.stamps(known.image for known in part)
        yield _parts(part), _parts([_as_listed(known, stamps.get(known.image)) for known in part])


def _as_listed(known: Known, stamp: str | None) -> Known:
    if stamp is None:
        return known
    return Listed(known.image, stamp, known.key if stamp and stamp == known.stamp else "")


def _parts(asked: Part) -> list[Part]:
    return [asked[i : i + _FILES_AT_ONCE] for i in range(0, len(asked), _FILES_AT_ONCE)]


def _take(hashed: Hashed, part: Part, results: list[Outcome], note: Callable[[Part], None]) -> None:
    new = []
    for known, (stamp, key, problem) in zip(part, results, strict=True):
        if problem:
            hashed.problems[known.image] = problem
        else:
            hashed.keys[known.image], hashed.stamps[known.image] = key, stamp
            found = Known(known.image, stamp, key)
            if stamp and found != known:
                new.append(found)
    if new:
        note(new)


def _check_reached(root: Path, hashed: Hashed) -> None:
    reasons = set(hashed.problems.values())
    if isinstance(root, Path) or hashed.keys or len(reasons) != 1:
        return
    from embed.pictures.remote import UNREACHED

    if (reason := reasons.pop()).startswith(UNREACHED):
        raise StoreUnreached(f"IMAGES={root}: {reason}; the same for all {len(hashed.problems)} pictures tried")


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
        if isinstance(path, Path):
            raise
        raise UnusableFile(_why(path, error)) from error  # object stores raise their own types


def _why(path: "Path | RemotePath", error: Any) -> str:
    if isinstance(path, Path):
        return f"the file cannot be read ({error.strerror})"
    from embed.pictures.remote import why

    return why(error)


def _hash_part(root: Path, part: Part) -> list[Outcome]:
    if isinstance(root, Path):
        return [_outcome(root / known.image, known, _of_file) for known in part]
    from embed.pictures.fetching import REQUESTS_AT_ONCE

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(lambda known: _outcome(root / known.image, known, _of_store), part))


def _outcome(path: "Path | RemotePath", known: Known, work: Callable[[Any, Known], tuple[str, str]]) -> Outcome:
    try:
        with _unusable_file(path):
            return Outcome(*work(path, known), "")
    except UnusableFile as error:
        return Outcome("", "", str(error))


def _of_file(path: Path, known: Known) -> tuple[str, str]:
    """The file's stamp, "" without one, and its key."""
    # taken before the file is read: a change in between gives another stamp in the next run
    stamp = _stamp(path)
    return stamp, known.key if stamp and stamp == known.stamp else content_key(read_picture(path))


def _stamp(path: Path) -> str:
    # size and times only, as in existing indexes
    return " ".join(map(str, (file_stamp(path) or [])[:3]))


def _of_store(path: "RemotePath", known: Known) -> tuple[str, str]:
    """The stamp and the key, in a request, or none if the listing says that the picture is unchanged."""
    asks = not isinstance(known, Listed) and (known.key or not path.says_stamp)
    stamp = path.stamp() if asks else known.stamp
    if known.key and stamp and stamp == known.stamp:
        return stamp, known.key
    data, said = path.read_with_stamp(MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return stamp or said, content_key(data)
