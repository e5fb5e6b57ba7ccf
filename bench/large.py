"""Time and memory of tuning on 100,000 memes x 1,792 dimensions. Goals: an hour, 16 GB.

    python -m bench.large --memes 100000 --trials 200

Synthetic vectors are imported by `python -m cache import`, then `python -m head tune` runs. Memory is the sum over all
its processes, sampled twice a second.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.machine import ROOT, describe, print_json, python, run, say, verdict
from bench.planted import planted
from cache import LATEST
from head.bundle.format import read_config

_GOAL_S, _GOAL_MB = 3600.0, 16 * 1024.0
_LOOKS_S = 0.5


def main() -> int:
    """Plant the memes, tune, print a table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-large-") as folder:
        work = Path(folder)
        say(f"planting {args.memes:,} memes")
        optimum = _plant(work / "memes.npz", args.memes)
        run(python("cache", "import", work / "memes.npz", "large", "--artifacts", work))
        (work / "memes.npz").unlink()
        say("tuning")
        index = work / "datasets" / "large.h5"
        command = python("head", "tune", "--data", index, "--artifacts", work, "--trials", str(args.trials))
        seconds, peak_mb = _tune([str(word) for word in command])
        figures = read_config(work / "bundles" / LATEST)["tuning_metrics"]["methods"]
    aurocs = {name: round(method["figures"]["auroc"]["point"], 4) for name, method in figures.items()}
    met = {"seconds": seconds < _GOAL_S, "peak_mb": peak_mb < _GOAL_MB}
    print(f"{args.memes:,} memes, {args.trials} trials of 5 folds, start to end")
    print(f"  {seconds:.0f} s, goal {_GOAL_S:.0f}: {verdict(met['seconds'])}")
    print(f"  {peak_mb:.0f} MB in all processes, goal {_GOAL_MB:.0f}: {verdict(met['peak_mb'])}")
    for name, value in aurocs.items():
        print(f"  AUROC out of fold, {name:36}{value:.3f}")
    print(f"  {'label rule (upper bound)':53}{optimum:.3f}")
    print_json(
        {
            "benchmark": "large",
            "machine": machine,
            "memes": args.memes,
            "trials": args.trials,
            "seconds": round(seconds, 1),
            "peak_mb": round(peak_mb),
            "auroc": aurocs,
            "optimum": round(optimum, 4),
            "met": met,
        }
    )
    return 0


def _plant(path: Path, count: int) -> float:
    features, optimum = planted(count, seed=1)
    np.savez(
        path,
        ids=features.ids,
        image=features.image,
        text=features.text,
        label=features.label,
        split=np.where(np.arange(count) % 5 == 0, "validation", "train"),
    )
    return optimum


def _tune(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MB of the command and its workers."""
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _tree_mb(process.pid))
            time.sleep(_LOOKS_S)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - began, peak


def _tree_mb(parent: int) -> float:
    """Resident memory of a process and its children, in MB; shared pages count several times."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # the process has ended
            continue
        if parent in (int(fields["Pid"]), int(fields["PPid"])):
            total += int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    return total


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.large", description="Tuning on many memes.")
    parser.add_argument("--memes", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--trials", type=int, default=200, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
