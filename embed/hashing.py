"""The keys of a data set's pictures: each file is read once and hashed, and none is decoded.

A file that has the size and the times of an earlier run keeps the key of that run: only a hint, which `--rehash`
distrusts; the content's hash is the truth.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tqdm import tqdm

from cache import content_key
from embed.ahead import run_ahead

# The largest picture file that is read into memory.
MAX_FILE_BYTES = 100_000_000
# Handed to a thread together: one file's worth of work is too little to hand over.
_FILES_AT_ONCE = 64
Part: TypeAlias = list[tuple[str, str, str]]
"""(image, stamp, key) of some pictures, the last two as they were in an earlier run, or ""."""
Results: TypeAlias = list[tuple[str, str, str]]
"""(stamp, key, problem) of each."""


class UnusableFile(ValueError):
    """A picture's file cannot be read."""


@dataclass
class Hashed:
    """{image: key} and {image: stamp} of what can be read, and {image: reason} of what cannot."""

    keys: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def in_threads(work: Callable[[Part], Results], parts: Sequence[Part]) -> Iterator[Results]:
    """`work` of each part, on this machine's cores."""
    return run_ahead(work, parts, len(parts) + 1)


def hash_pictures(
    root: Path,
    images: Iterable[str],
    hints: Mapping[str, tuple[str, str]],
    spread: Callable[[Callable[[Part], Results], Sequence[Part]], Iterator[Results]] = in_threads,
) -> Hashed:
    """Keys of the pictures under `root`; hints: {image: (stamp, key)} of an earlier run; spread: does the work."""
    names = list(dict.fromkeys(images))
    asked = [(name, *hints.get(name, ("", ""))) for name in names]
    parts = [asked[i : i + _FILES_AT_ONCE] for i in range(0, len(asked), _FILES_AT_ONCE)]
    hashed = Hashed()
    # a bar only where there is something to wait for
    with tqdm(total=len(names), desc="hashing", unit=" files", delay=1) as bar:
        for part, results in zip(parts, spread(partial(_hash_part, root), parts), strict=True):
            for (name, _, _), (stamp, key, problem) in zip(part, results, strict=True):
                if problem:
                    hashed.problems[name] = problem
                else:
                    hashed.keys[name], hashed.stamps[name] = key, stamp
            bar.update(len(part))
    return hashed


def read_picture(path: Path) -> bytes:
    """A picture file's bytes. Raises UnusableFile for one that is absent, unreadable or larger than the limit."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UnusableFile(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise UnusableFile(f"the file cannot be read ({error.strerror})") from error


def _hash_part(root: Path, part: Part) -> Results:
    return [_stamp_key_problem(os.path.join(root, name), stamp, key) for name, stamp, key in part]


def _stamp_key_problem(path: str, known_stamp: str, known_key: str) -> tuple[str, str, str]:
    """The file's stamp and key, or why it has none."""
    try:
        # Taken before the file is read: a change in between shows as another stamp next time.
        stamp = _stamp(path)
        if stamp == known_stamp:
            return stamp, known_key, ""
        return stamp, content_key(read_picture(Path(path))), ""
    except UnusableFile as error:
        return "", "", str(error)
    except OSError as error:
        return "", "", f"the file cannot be read ({error.strerror})"


def _stamp(path: str) -> str:
    status = os.stat(path)
    # The change time too: copying tools set modification times back.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
