"""Kill the embedding job repeatedly and compare the cache with that of an undisturbed run.

    python -m bench.crash    (`make bench-crash`)

Input: distinct copies of a folder's memes, enough for many segments. A series begins with an empty cache and runs
`python -m embed` with the demo encoder repeatedly, each run ended by `kill -9` at a random time, every other one while
the next segment is being written, until all vectors are on disk; then one run completes. After every kill the rows on
disk are checked for lost, duplicate and recomputed ones.
Progress on stderr, a table and one JSON line on stdout; exit 1 if a check fails.
"""

import argparse
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bench.copies import write_copies
from bench.machine import ROOT, describe, print_json, python, run, say
from cache import KINDS, DatasetIndex, Layout, VectorStore, read_index

MODEL = "local-dir:demo/encoder"
# Latest kill, as a fraction of a normal run's duration: at the very end all vectors are written.
_LATEST = 0.95
# If a run ends before its kill, it is repeated with a kill earlier by this factor, at most so often.
_EARLIER = 0.75
_MOST_STARTS = 5
# A segment is written in some milliseconds.
_POLL_SECONDS = 0.0005


@dataclass(frozen=True)
class Disk:
    """Contents of the segments. keys: {segment: keys of its rows}; stamps: {segment: (inode, size, mtime)}."""

    keys: dict[str, list[bytes]]
    stamps: dict[str, tuple[int, ...]]

    @property
    def rows(self) -> int:
        return sum(map(len, self.unmerged().keys.values()))

    def unmerged(self) -> "Disk":
        """Without the segments whose rows a larger one has: a kill while segments are merged leaves both."""
        sets = {name: set(keys) for name, keys in self.keys.items()}
        kept = [name for name, own in sets.items() if not any(own < other for other in sets.values())]
        return Disk({name: self.keys[name] for name in kept}, self.stamps)

    def of(self, kind: str, names: Iterable[str] | None = None) -> Counter[bytes]:
        """Number of rows per key of a kind, in all segments or in `names`."""
        chosen = self.keys if names is None else names
        return Counter(key for name in chosen if name.startswith(kind) for key in self.keys[name])


@dataclass
class _Tally:
    """Failed checks, as text, and counts."""

    wrong: list[str] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    series: int = 0
    finished_first: int = 0

    def check(self, good: bool, what: str) -> None:
        if not good:
            self.wrong.append(f"series {self.series}, kill {len(self.kills)}: {what}")

    def record(self, wrong: list[str], artifacts: Path, index: DatasetIndex) -> None:
        """Record failures, and open the store to find damaged segments."""
        damaged = VectorStore(Layout(artifacts).vectors, index.spec).damaged
        for what in [*wrong, *(f"{name} is damaged" for name in damaged)]:
            self.check(False, what)


def crash(data: Path, work: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Run the benchmark under `work`; the result's "wrong" lists the failed checks.

    Raises CommandFailed if the undisturbed run fails.
    """
    whole = work / "whole"
    undisturbed = run(_command(data, whole))
    normal, index = undisturbed.seconds, read_index(Path(undisturbed.last_json()["index"]))
    wanted = sum(len(keys) for keys in _wanted(index).values())
    say(f"an undisturbed run: {wanted} vectors in {normal:.1f} s")
    tally, killed = _Tally(), work / "killed"
    for number, moment in enumerate(_moments(kills, normal, seed)):
        for _ in range(_MOST_STARTS):
            if not killed.exists():
                tally.series += 1
            before, unfinished = _read_disk(killed), _unfinished(killed)
            ended = _start_and_kill(_command(data, killed), moment, killed if number % 2 else None)
            after, written = _read_disk(killed), bool(_unfinished(killed) - unfinished)
            tally.record(compare(before, after), killed, index)
            if ended:
                tally.finished_first += 1
                moment *= _EARLIER
            else:
                made = after.rows - before.rows
                tally.kills.append({"at_s": round(moment, 2), "made": made, "on_disk": after.rows, "in_write": written})
                say(f"kill {len(tally.kills)} after {moment:.1f} s: {made} new rows, {after.rows} of {wanted} on disk")
            if ended or after.rows >= wanted:
                _finish(data, whole, killed, index, tally)
            if not ended:
                break
    if killed.exists():
        _finish(data, whole, killed, index, tally)
    tally.check(len(tally.kills) == kills, f"only {len(tally.kills)} of {kills} kills came before the run's end")
    return {
        "kills": len(tally.kills),
        "series": tally.series,
        "finished_first": tally.finished_first,
        "kills_with_part_on_disk": sum(0 < kill["on_disk"] < wanted for kill in tally.kills),
        "kills_while_writing": sum(kill["in_write"] for kill in tally.kills),
        "vectors": wanted,
        "normal_s": round(normal, 2),
        "each": tally.kills,
        "wrong": tally.wrong,
    }


def main() -> int:
    """Run it, print the table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-crash-") as work:
        write_copies(args.data, Path(work) / "memes", args.memes)
        figures = crash(Path(work) / "memes", Path(work), args.kills, args.seed)
    print(f"kills that struck a running job     {figures['kills']} in {figures['series']} series")
    print(f"  with part of the rows on disk     {figures['kills_with_part_on_disk']}")
    print(f"  while a segment was written       {figures['kills_while_writing']}")
    print(f"vectors of a whole run              {figures['vectors']} in {figures['normal_s']} s")
    print(f"checks that failed                  {len(figures['wrong'])}")
    for line in figures["wrong"]:
        print(f"  {line}")
    print_json(
        {"benchmark": "crash", "data": args.data.resolve().name, "seed": args.seed, "machine": machine, **figures}
    )
    return 1 if figures["wrong"] else 0


def _command(data: Path, artifacts: Path) -> list[str]:
    command = python("embed", "--data", data, "--model", MODEL, "--artifacts", artifacts, "--device", "cpu", "--json")
    return [str(word) for word in command]


def _moments(kills: int, normal: float, seed: int) -> Iterator[float]:
    """Kill times in seconds over a run, in random order, with more late ones (rows come after loading the model)."""
    rng = random.Random(seed)
    parts = rng.sample(range(kills), kills)
    return (math.sqrt((part + rng.random()) / kills) * _LATEST * normal for part in parts)


def _start_and_kill(command: list[str], moment: float, writing: Path | None) -> bool:
    """Start the command and kill it after `moment` seconds; whether it had ended before.

    writing: kill it only when the next segment is being written to these artifacts.
    """
    before = _unfinished(writing) if writing else set()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        while writing and process.poll() is None and not _unfinished(writing) - before:
            time.sleep(_POLL_SECONDS)
        process.kill()
    return process.wait() != -signal.SIGKILL


def _unfinished(artifacts: Path) -> set[Path]:
    """Segments that are being written, or were when a run was killed."""
    return set(artifacts.glob("vectors/*/.*.h5.*.tmp"))


def _read_disk(artifacts: Path) -> Disk:
    """Read every segment file directly, without the store and its manifest."""
    keys: dict[str, list[bytes]] = {}
    stamps: dict[str, tuple[int, ...]] = {}
    for path in sorted(path for kind in KINDS for path in artifacts.glob(f"vectors/*/{kind}-*.h5")):
        with h5py.File(path, "r") as file:
            keys[path.name] = [row.tobytes() for row in file["keys"][:]]
        status = path.stat()
        stamps[path.name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return Disk(keys, stamps)


def compare(before: Disk, after: Disk) -> list[str]:
    """Lost, duplicate, recomputed and rewritten rows after a run, killed or not."""
    wrong = []
    for kind in KINDS:
        there, now = before.of(kind), after.unmerged().of(kind)
        made = Counter(_made(before, after, kind))
        wrong += [
            (len(there.keys() - now.keys()), f"{kind} rows that were on disk are gone"),
            (sum(count > 1 for count in now.values()), f"{kind} rows are there twice"),
            (len(made.keys() & there.keys()), f"{kind} rows that were on disk were made again"),
        ]
    rewritten = sum(after.stamps.get(name, stamp) != stamp for name, stamp in before.stamps.items())
    return [f"{number} {what}" for number, what in [*wrong, (rewritten, "segments were written again")] if number]


def _made(before: Disk, after: Disk, kind: str) -> Iterator[bytes]:
    """Keys of the rows in new segments, without those that were merged into them."""
    old = [set(keys) for name, keys in before.keys.items() if name.startswith(kind)]
    for name in after.unmerged().keys.keys() - before.keys.keys():
        if name.startswith(kind):
            own = set(after.keys[name])
            merged = [part for part in old if part <= own]
            yield from own.difference(*merged) if len(merged) > 1 else own


def _finish(data: Path, whole: Path, killed: Path, index: DatasetIndex, tally: _Tally) -> None:
    """Complete the run, compare with the undisturbed one, and delete the cache."""
    before = _read_disk(killed)
    run(_command(data, killed))
    tally.record(compare(before, _read_disk(killed)), killed, index)
    for kind, keys in _wanted(index).items():
        stores = [VectorStore(Layout(artifacts).vectors, index.spec) for artifacts in (whole, killed)]
        here, there = (store.known(kind) for store in stores)
        tally.check(here == there, f"{len(here ^ there)} {kind} keys are in one cache and not in the other")
        if here == there:
            one, other = (store.read(kind, keys) for store in stores)
            differ = int((one != other).any(axis=1).sum())
            largest = float(np.abs(one - other).max(initial=0))
            tally.check(not differ, f"{differ} {kind} vectors differ, by up to {largest:.1e}")
    shutil.rmtree(killed)


def _wanted(index: DatasetIndex) -> dict[str, list[str]]:
    """{kind: distinct keys of the embedded memes}."""
    images = (key for key, reason in zip(index.image_keys, index.skipped, strict=True) if not reason)
    return {"image": list(dict.fromkeys(images)), "text": list(dict.fromkeys(index.text_keys))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.crash", description="Kill the job again and again.")
    parser.add_argument("--data", type=Path, default=Path("demo/memes"), help="folder of memes (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=4_000, help="copies of them (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
