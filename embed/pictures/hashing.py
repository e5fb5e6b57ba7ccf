"""The keys of a data set's pictures: each file is read once and hashed, and none is decoded.

A file that has the size and the times of an earlier run keeps the key of that run, and behind a URL one that has the
ETag: only a hint, which `--rehash` distrusts; the content's hash is the truth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tqdm import tqdm

from cache import content_key, file_stamp
from embed.base.threads import run_ahead

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# The largest picture file that is read into memory.
MAX_FILE_BYTES = 100_000_000
# Handed to a thread together: one file's worth of work is too little to hand over.
_FILES_AT_ONCE = 64
# Object stores are latency-bound: concurrent requests per worker thread.
_QUESTIONS_AT_ONCE = 8
# Pictures, spread over the data set, that a store is asked for first: of one that is down, or refuses, each costs the
# seconds of several attempts.
_FIRST_ASKED = 8
_BLOCK = 1 << 20


class Known(NamedTuple):
    """A picture, and its file's stamp and key as an earlier run found them, "" where none did."""

    image: str
    stamp: str
    key: str


class Outcome(NamedTuple):
    """A picture file's stamp and key, or the problem why it has none."""

    stamp: str
    key: str
    problem: str


Part: TypeAlias = list[Known]


class UnusableFile(ValueError):
    """A picture's file cannot be read."""


class StoreUnreached(ValueError):
    """A store behind a URL gives none of the pictures it was asked for first, for one reason that is not theirs."""


@dataclass
class Hashed:
    """{image: key} and {image: stamp} of what can be read, and {image: reason} of what cannot."""

    keys: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def in_threads(work: Callable[[Part], list[Outcome]], parts: Sequence[Part]) -> Iterator[list[Outcome]]:
    """`work` of each part, on this machine's cores."""
    return run_ahead(work, parts, len(parts) + 1)


def hash_pictures(
    root: Path,
    images: Iterable[str],
    hints: Mapping[str, tuple[str, str]],
    spread: Callable[[Callable[[Part], list[Outcome]], Sequence[Part]], Iterator[list[Outcome]]] = in_threads,
    note: Callable[[Part], None] = lambda part: None,
) -> Hashed:
    """Keys of the pictures under `root`; hints: {image: (stamp, key)} of an earlier run; spread: does the work; note:
    called with each newly hashed part, so progress survives a kill.

    Raises StoreUnreached.
    """
    names = list(dict.fromkeys(images))
    asked = [Known(name, *hints.get(name, ("", ""))) for name in names]
    hashed = Hashed()
    # a bar only where there is something to wait for
    with tqdm(total=len(names), desc="hashing", unit=" files", delay=1) as bar:
        for parts in _rounds(root, asked):
            for part, results in zip(parts, spread(partial(_hash_part, root), parts), strict=True):
                _take(hashed, part, results, note)
                bar.update(len(part))
            _check_reached(root, hashed)
    return hashed


def _rounds(root: Path, asked: Part) -> list[list[Part]]:
    """What is handed out together: of a store behind a URL, first a few pictures from all over."""
    if isinstance(root, Path):
        return [_parts(asked)]
    step = max(1, len(asked) // _FIRST_ASKED)
    return [_parts(asked[::step]), _parts([item for place, item in enumerate(asked) if place % step])]


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
        raise StoreUnreached(f"IMAGES={root}: {reason}; so it was for each of {len(hashed.problems)} pictures")


def read_picture(path: "Path | RemotePath") -> bytes:
    """A picture file's bytes. Raises UnusableFile for one that is absent, unreadable or larger than the limit."""
    with _in_a_sentence(path):
        if isinstance(path, Path):
            _check_size(path.stat().st_size)
        with path.open("rb") as file:
            # a store says with the first answer how large an object is
            _check_size(getattr(file, "size", None) or 0)
            data = _read_at_most(file, MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return data


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UnusableFile(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    """A file that grows, or a server that never ends, is not read to the end."""
    blocks = []
    while limit and (block := file.read(min(limit, _BLOCK))):
        blocks.append(block)
        limit -= len(block)
    return b"".join(blocks)


@contextmanager
def _in_a_sentence(path: "Path | RemotePath") -> Iterator[None]:
    """Whatever goes wrong with reading a file, as UnusableFile."""
    try:
        yield
    except UnusableFile:
        raise
    except OSError as error:
        raise UnusableFile(_why(path, error)) from error
    except Exception as error:
        if isinstance(path, Path):
            raise
        raise UnusableFile(_why(path, error)) from error  # stores have errors of their own


def _why(path: "Path | RemotePath", error: Any) -> str:
    if isinstance(path, Path):
        return f"the file cannot be read ({error.strerror})"
    from embed.pictures.remote import why

    return why(error)


def _hash_part(root: Path, part: Part) -> list[Outcome]:
    if isinstance(root, Path):
        return [_outcome(root / known.image, known) for known in part]
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        return list(pool.map(lambda known: _outcome(root / known.image, known), part))


def _outcome(path: "Path | RemotePath", known: Known) -> Outcome:
    try:
        # Taken before the file is read: a change in between shows as another stamp next time.
        with _in_a_sentence(path):
            stamp = _stamp(path)
        if stamp and stamp == known.stamp:
            return Outcome(stamp, known.key, "")
        return Outcome(stamp, content_key(read_picture(path)), "")
    except UnusableFile as error:
        return Outcome("", "", str(error))


def _stamp(path: "Path | RemotePath") -> str:
    """As it stands in an index; "" where there is none to go by."""
    if isinstance(path, Path):
        # the bytes and the times alone: as in the indexes that there are
        return " ".join(map(str, (file_stamp(path) or [])[:3]))
    from embed.pictures.remote import stamp

    return stamp(path)
