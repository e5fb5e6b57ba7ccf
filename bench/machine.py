"""What every benchmark shares: the machine in words, a command's time and memory, progress, the last JSON line.

It knows nothing of memes, encoders or caches.
"""

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
# In git's ignored folder: weights and a peer's virtual environment are made once and kept.
WORKSHOP = ROOT / "artifacts" / "bench"
_TAIL_LINES = 15
# What decides how fast a core multiplies in bf16.
_MATRIX_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class CommandFailed(RuntimeError):
    """A command that a benchmark started ended badly; the message holds the end of what it wrote."""


@dataclass(frozen=True)
class Run:
    """A finished command. seconds: wall time; peak_mb: largest resident set of its own process."""

    seconds: float
    peak_mb: float
    stdout: str

    def last_json(self) -> dict[str, Any]:
        """The object in the last line of stdout."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, good: Sequence[int] = (0,)) -> Run:
    """Run `command` from the project's root, with `env` on top of ours. Raises CommandFailed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        words = [str(word) for word in command]
        started = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)  # unlike wait(), it tells this one child's peak memory
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in good:
            tail = "\n".join(_read(err).splitlines()[-_TAIL_LINES:])
            raise CommandFailed(f"{' '.join(words)} ended with {process.returncode}:\n{tail}")
        return Run(seconds, usage.ru_maxrss / 1024, _read(out))


def python(module: str, *arguments: str | Path) -> list[str | Path]:
    """The command line of one of our modules, under the interpreter that runs this."""
    return [sys.executable, "-m", module, *arguments]


def require_seen(peak_mb: float) -> float:
    """`peak_mb`, if it can be the child's own: a child starts with its parent's peak. Raises CommandFailed."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if peak_mb <= ours:
        raise CommandFailed(f"a peak of {peak_mb:.0f} MB cannot be told from this process's own {ours:.0f} MB")
    return peak_mb


def describe() -> dict[str, Any]:
    """The machine, and how busy it was before we began."""
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
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {note}", file=sys.stderr, flush=True)


def print_json(result: dict[str, Any]) -> None:
    """The last line of a benchmark: every figure, for programs."""
    print(json.dumps(result, sort_keys=True), flush=True)


def verdict(met: bool | None) -> str:
    """How a goal ended, in a word."""
    return "not measured" if met is None else "met" if met else "MISSED"


def _read(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
