"""Helpers of all benchmarks: machine description, time and memory of a command, progress, JSON output."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import cores

ROOT = Path(__file__).resolve().parent.parent
# Random weights and peers' virtual environments are kept here; git ignores it.
BENCH_FOLDER = ROOT / "artifacts" / "bench"
_TAIL_LINES = 15
# CPU flags that determine the speed of bfloat16 products.
_MATRIX_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class CommandFailed(RuntimeError):
    """A command of a benchmark failed; the message has the end of its stderr."""


@dataclass(frozen=True)
class Run:
    """A finished command. seconds: wall time; peak_mb: peak resident memory of its own process, without children."""

    seconds: float
    peak_mb: float
    stdout: str

    def last_json(self) -> dict[str, Any]:
        """The object in the last line of stdout."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, good: Sequence[int] = (0,)) -> Run:
    """Run `command` in the project's root, with `env` added to the environment; good: accepted exit codes.

    Raises CommandFailed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        words = [str(word) for word in command]
        started = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)  # unlike wait(), it returns this child's peak memory
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in good:
            tail = "\n".join(_read(err).splitlines()[-_TAIL_LINES:])
            raise CommandFailed(f"{' '.join(words)} failed with exit code {process.returncode}:\n{tail}")
        return Run(seconds, usage.ru_maxrss / 1024, _read(out))


def python(module: str, *arguments: str | Path) -> list[str | Path]:
    """The command line of one of our modules, with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def require_own_peak(peak_mb: float) -> float:
    """`peak_mb` of a child. A child inherits its parent's peak: raises CommandFailed unless it is larger than ours."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if peak_mb <= ours:
        raise CommandFailed(f"peak {peak_mb:.0f} MB: not larger than this process's {ours:.0f} MB, so not measurable")
    return peak_mb


def describe() -> dict[str, Any]:
    """CPU, usable cores, load average at the start, and versions."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "matrix_flags": [flag for flag in _MATRIX_FLAGS if flag in flags],
        "cores": cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "open_clip": importlib.metadata.version("open_clip_torch"),
    }


def say(note: str) -> None:
    """Print progress with the time, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {note}", file=sys.stderr, flush=True)


def print_json(result: dict[str, Any]) -> None:
    """Print a benchmark's last line: all figures as one JSON object."""
    print(json.dumps(result, sort_keys=True), flush=True)


def verdict(met: bool | None) -> str:
    """The outcome of a goal: "met", "MISSED" or "not measured"."""
    return "not measured" if met is None else "met" if met else "MISSED"


def _read(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
