"""How many processors this process may use, in a container too. Every room sizes its threads and processes by it.

Neither torch nor Python 3.11 knows of a container's limit: with `docker run --cpus 2` on a machine of 64 processors
they start 64 threads, which then stand still for most of every tenth of a second. joblib does know, and takes four times
as long to import as `python -m embed` may take to find that there is nothing to do.
"""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_GROUPS, _MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@cache
def cores() -> int:
    """The processors that this process may use, at least 1, as they are at the first call: the fewest of those that it
    may run on and those whose time its control groups grant it, parts of one rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_granted(_GROUPS, _MOUNTS)]))


def _granted(groups: Path, mounts: Path) -> list[int]:
    """What each control group of this process, and each that holds it, grants. A container sees its own as the root of
    `mounts`, whatever its name is outside."""
    return [math.ceil(quota / period) for folder in _folders(groups, mounts) for quota, period in _limits(folder)]


def _folders(groups: Path, mounts: Path) -> Iterator[Path]:
    """The folders that may hold a limit, of version 2 and of version 1 of control groups."""
    for line in _words(groups, "\n"):
        _, controllers, path = line.split(":", 2)
        mounted = [mounts] if controllers == "" else [mounts / controllers, mounts / "cpu"]
        if controllers == "" or "cpu" in controllers.split(","):
            for name in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield from (folder / name.relative_to("/") for folder in mounted)


def _limits(folder: Path) -> Iterator[tuple[int, int]]:
    """(quota, period) in microseconds, where there is a limit: 0 or one of either version."""
    both = (
        _words(folder / "cpu.max"),
        _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),
    )
    for words in both:
        if len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words):  # else "max", or -1
            yield int(words[0]), int(words[1])


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text("utf-8").strip().split(separator)
    except OSError:
        return []
