"""Usable CPUs: quotas of made-up control groups, this process, and its libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cache import cores

ROOT = Path(__file__).parents[2]
# the package's own `cores` is the function
MODULE = sys.modules[cores.__module__]
ROOMS = ("api", "bench", "cache", "container", "embed", "head", "report")
V1, DOCKER = "4:cpu,cpuacct:", "/docker/0f3a"
LIMIT = """
import sys, threading
import numpy, torch
from threadpoolctl import threadpool_info
from cache import limit_threads
torch.set_num_threads(5)
for count in (8, 1):
    sys.modules["cache.cores"].cores = lambda: count
    limit_threads()
    thread = threading.Thread(target=lambda: print(torch.get_num_threads(), end=" "))
    thread.start()
    thread.join()
    print(torch.get_num_threads(), max(pool["num_threads"] for pool in threadpool_info()))
"""


def v1(quota: object, period: int = 100_000, at: str = "cpu,cpuacct") -> dict[str, str]:
    return {f"{at}/cpu.cfs_quota_us": f"{quota}\n", f"{at}/cpu.cfs_period_us": f"{period}\n"}


def v2(*limits: str, at: str = "") -> dict[str, str]:
    return {f"{at}cpu.max": " ".join(limits) + "\n"}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", v2("200000", "100000"), [2]),
        ("0::/", v2("50000", "100000"), [1]),
        ("0::/", v2("150000", "100000"), [2]),
        ("0::/", v2("1000", "100000"), [1]),
        ("0::/", v2("200001", "100000"), [3]),
        ("0::/", v2("30000", "10000"), [3]),
        ("0::/", v2("max", "100000"), []),
        ("0::/", {}, []),
        # of a host: every slice above counts
        (
            "0::/a.slice/b.service",
            {**v2("400000", "100000", at="a.slice/b.service/"), **v2("300000", "100000", at="a.slice/")},
            [4, 3],
        ),
        ("0::/a.slice/b.service", v2("300000", "100000", at="a.slice/"), [3]),
        ("0::/a.slice", v2("100000", "100000", at="other.slice/"), []),
        # a container that is told its name on the host, and sees its own group alone
        (f"0::{DOCKER}", v2("200000", "100000"), [2]),
        (f"{V1}{DOCKER}", v1(200_000), [2]),
        (f"{V1}{DOCKER}", v1(200_000, at=f"cpu,cpuacct{DOCKER}"), [2]),
        (f"{V1}/", v1(150_000), [2]),
        (f"{V1}/", v1(-1), []),
        (f"{V1}/", v1(0), []),
        (f"{V1}/", v1(10_000, 0), []),
        ("1:cpu:/", v1(10_000, 10_000, at="cpu"), [1]),
        # where the folder's name has the controllers the other way round, systemd and Docker link `cpu` to it
        ("4:cpuacct,cpu:/", v1(200_000, at="cpu"), [2]),
        # another controller's group, and version 2 beside version 1
        ("5:cpuset:/a\n3:cpuacct:/b", {**v1(100_000, at="cpu/a"), **v1(100_000, at="cpu/b")}, []),
        ("9:name=systemd:/a\n1:cpu:/b\n0::/a", {**v1(100_000, at="cpu/a"), **v1(200_000, at="cpu/b")}, [2]),
        ("1:name=systemd:/\n0::/a", v2("200000", "100000", at="unified/a/"), [2]),
        # what cannot be parsed limits nothing
        ("0::/", v2("two", "100000"), []),
        ("0::/", v2("-200000", "100000"), []),
        ("0::/", v2("200000"), []),
        ("0::/", v2("200000", "0"), []),
        ("0::/", v2("200000", "100000", "7"), []),
        ("0::/", v2(""), []),
        ("0::/", {"cpu.max/folder": ""}, []),
        ("", v2("200000", "100000"), []),
        ("nonsense\n0:\n0::relative", v2("200000", "100000"), []),
        ("0::/gone (deleted)", v2("200000", "100000"), [2]),
        ("0::/a:b/\udcff", v2("200000", "100000", at="a:b/\udcff/"), [2]),
    ],
)
def test_what_control_groups_grant(groups: str, files: dict[str, str], expected: list[int], tmp_path: Path) -> None:
    for name, text in {"groups": f"{groups}\n" if groups else "", **files}.items():
        path = tmp_path / name if name == "groups" else tmp_path / "mounts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(text))
    assert list(MODULE._quotas(tmp_path / "groups", tmp_path / "mounts")) == expected


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert list(MODULE._quotas(tmp_path / "none", tmp_path / "nowhere")) == []


def test_between_one_and_what_the_process_may_run_on() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [(10_000, 1), (200_000, 2), (300_000, 3), (400_000, 3)])
def test_the_fewer_of_both_count(quota: int, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "groups").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    monkeypatch.setattr(MODULE, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(MODULE, "_MOUNTS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    assert cores.__wrapped__() == expected


def test_a_process_that_is_bound_to_one_processor_sees_one() -> None:
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{first}}}); from cache import cores; print(cores())"
    assert python(code) == "1\n"


def test_torch_and_numpy_take_no_more_threads_than_cores_and_keep_to_fewer() -> None:
    assert python(LIMIT) == "5 5 5\n1 1 1\n"


def test_nobody_else_counts_processors() -> None:
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    counting = {"cpu_count", "sched_getaffinity"}
    found = [
        str(path.relative_to(ROOT)) for path in modules if any(name in path.read_text("utf-8") for name in counting)
    ]
    assert found == ["cache/cores.py"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout
