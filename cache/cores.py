"""How many processors this process may use, in a container too. Every room sizes its threads and processes by it.

Neither torch, numpy nor Python 3.11 knows of a container's limit: with `docker run --cpus 2` on a machine of 64
processors they start 64 threads, which then stand still for most of every tenth of a second. joblib does know, and takes
four times as long to import as `python -m embed` may take to find that there is nothing to do.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_GROUPS, _MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# What limits a group, in version 2 and in version 1 of control groups.
_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


@cache
def cores() -> int:
    """The processors that this process may use, at least 1, as they are at the first call: the fewest of those that it
    may run on and those whose time its control groups grant it, parts of one rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_granted(_GROUPS, _MOUNTS)])


def limit_threads() -> None:
    """Have torch and numpy, where they are loaded by now, compute with at most `cores()` threads, in threads that begin
    later too; fewer, as of `OMP_NUM_THREADS`, stay fewer."""
    from threadpoolctl import ThreadpoolController  # a fiftieth of a second, which most commands have no use for

    # its pools belong to threads, and MKL is inside it: threadpoolctl sees but a part
    torch = sys.modules.get("torch")
    if torch and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    for library in ThreadpoolController().lib_controllers:
        if library.num_threads > cores():
            library.set_num_threads(cores())


def _granted(groups: Path, mounts: Path) -> Iterator[int]:
    """What each control group of this process, and each that holds it, grants, where there is a limit."""
    for folder in _folders(groups, mounts):
        for names in _FILES:
            # else "max", or -1
            if limit := re.fullmatch(
                r"([1-9][0-9]*)\s([1-9][0-9]*)\s", "".join(_text(folder / name) for name in names)
            ):
                quota, period = map(int, limit.groups())  # microseconds
                yield math.ceil(quota / period)


def _folders(groups: Path, mounts: Path) -> Iterator[Path]:
    """The folders that may hold a limit. A container sees its own group as the root of `mounts`, whatever its name is
    outside; a line of `groups` is `number:controllers:/path`, of version 2 without controllers."""
    for controllers, path in re.findall(r"^\d+:([^:\n]*):/(.*)$", _text(groups), re.MULTILINE):
        for name in (PurePosixPath(path), *PurePosixPath(path).parents):
            if not controllers:
                yield from (mounts / name, mounts / "unified" / name)
            elif "cpu" in controllers.split(","):
                yield from (mounts / mount / name for mount in {controllers, "cpu"})


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
