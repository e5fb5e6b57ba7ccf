"""Number of usable CPUs, with CPU affinity and control-group quotas. All rooms size their thread pools by it.

torch, numpy and Python 3.11 ignore a container's quota: under `docker run --cpus 2` on 64 CPUs they start 64 threads,
which are throttled for most of every 100 ms period. joblib reads the quota, but takes four times as long to import as
`python -m embed` may take for a run with nothing to do.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_GROUPS, _MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Files of the CPU quota in control groups v2 and v1.
_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


@cache
def cores() -> int:
    """CPUs that this process may use, at least 1: the minimum of its affinity mask and its quotas. Cached."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_quotas(_GROUPS, _MOUNTS)])


def limit_threads() -> None:
    """Limit torch and numpy, where already imported, to `cores()` threads; a lower limit (`OMP_NUM_THREADS`) stays.

    The limit also holds for threads that start later.
    """
    from threadpoolctl import ThreadpoolController  # 20 ms to import, which most commands do not need

    # torch's pools are per thread and it links MKL statically, so threadpoolctl sees only part of them
    torch = sys.modules.get("torch")
    if torch and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    for library in ThreadpoolController().lib_controllers:
        if library.num_threads > cores():
            library.set_num_threads(cores())


def _quotas(groups: Path, mounts: Path) -> Iterator[int]:
    """CPU quotas, rounded up, of this process's control groups and their ancestors that have one."""
    for folder in _folders(groups, mounts):
        for names in _QUOTA_FILES:
            # without a limit the quota is "max" (v2) or -1 (v1)
            if limit := re.fullmatch(
                r"([1-9][0-9]*)\s([1-9][0-9]*)\s", "".join(_text(folder / name) for name in names)
            ):
                quota, period = map(int, limit.groups())  # microseconds
                yield math.ceil(quota / period)


def _folders(groups: Path, mounts: Path) -> Iterator[Path]:
    """Folders that may hold a quota. A line of `groups` is `number:controllers:/path`; in v2 `controllers` is empty.

    A container sees its own group as the root of `mounts`, whatever the path says.
    """
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
