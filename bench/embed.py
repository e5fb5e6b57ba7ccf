"""How many memes a second: our job against open_clip in a plain loop, clip-retrieval, and what the cores allow.

`python -m bench.embed --data FOLDER` (`make bench-embed DATA=FOLDER`): the same memes, the same random ViT-B-32 weights, one
run, in turn, round after round; the fastest round of each counts. Progress goes to stderr, a table to stdout, and the
last line is one JSON object. Exit 0 even where a goal is missed: the table says so; exit 1: vectors differ.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, retrieval
from bench.cases import Case, make_cases
from bench.environment import NoPeer
from bench.figures import DEFAULT, FP32, FP32_LIMIT, LIMIT, PEER, PLAIN, Measured, result, table
from bench.machine import describe, print_json, python, run, say
from bench.weights import MODEL, weights_file
from cache import cores


def main() -> int:
    """Measure, print, and say by the exit code whether the vectors agree."""
    asked = _parser().parse_args()
    machine = describe()
    weights = weights_file()
    interpreter, why_not = _peer(asked.without_clip_retrieval)
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        work = Path(folder)
        cases = make_cases(Path(asked.data), work, asked.memes)
        say(f"{asked.data}: " + ", ".join(f"{case.count} {case.name}" for case in cases))
        measured = _measure(cases, work, weights, interpreter, asked.rounds)
    results = {case.name: result(case, measured[case.name]) for case in cases}
    print(table(results, why_not))
    agree = all(result["agrees"] for result in results.values())
    print_json(
        {
            "benchmark": "embed",
            "data": Path(asked.data).resolve().name,
            "model": f"{MODEL}, random weights",
            "machine": machine,
            "rounds": asked.rounds,
            "statistic": "fastest round",
            "clip_retrieval": {"version": retrieval.VERSION, "missing": why_not},
            "cases": results,
            "vectors_agree": agree,
        }
    )
    return 0 if agree else 1


def _peer(without: bool) -> tuple[Path | None, str | None]:
    if without:
        return None, "left out by --without-clip-retrieval"
    try:
        return retrieval.install(), None
    except NoPeer as error:
        say(str(error))
        return None, str(error)


def _measure(cases: list[Case], work: Path, weights: Path, peer: Path | None, rounds: int) -> dict[str, Measured]:
    """Every contender on every case, `rounds` times, in turn."""
    measured: dict[str, Measured] = {case.name: {} for case in cases}
    shards = {case.name: retrieval.write_shards(case) for case in cases} if peer else {}
    for number in range(rounds):
        for case in cases:
            contenders = _contenders(case, work, weights, peer, shards)
            # there and back, so that a machine that slows down slows nobody more
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                entry = measured[case.name].setdefault(name, {"seconds": [], "wall": []})
                _note(entry, contenders[name]())
                say(f"round {number + 1}, {case.name}, {name}: {case.count / entry['seconds'][-1]:.1f} memes/s")
        _note_limits(cases, measured, work)
    return measured


def _contenders(
    case: Case, work: Path, weights: Path, peer: Path | None, shards: dict[str, str]
) -> dict[str, Callable[[], dict[str, Any]]]:
    contenders: dict[str, Callable[[], dict[str, Any]]] = {
        # with workers it decodes beside the model, without it leaves the model every core: the quicker counts
        f"{PLAIN}, {workers} workers": partial(_plain, case, work, weights, workers)
        for workers in (0, cores())
    }
    if peer:
        contenders[PEER] = lambda: dict(
            vars(retrieval.infer(peer, case, shards[case.name], weights, work / "retrieval"))
        )
    contenders[FP32] = lambda: dict(vars(ours.embed(case, weights, work / "ours", "fp32")))
    contenders[DEFAULT] = lambda: dict(vars(ours.embed(case, weights, work / "ours")))
    return contenders


def _plain(case: Case, work: Path, weights: Path, workers: int) -> dict[str, Any]:
    out = work / "plain.npz"
    sides = ["--no-images"] * (not case.images) + ["--no-texts"] * (not case.texts)
    done = run(python("bench.plain", case.folder, weights, out, "--workers", str(workers), *sides))
    with np.load(out) as vectors:
        return {"seconds": done.last_json()["seconds"], "wall": done.seconds, "vectors": dict(vectors)}


def _note(entry: dict[str, Any], told: dict[str, Any]) -> None:
    entry["seconds"].append(told.pop("seconds"))
    entry["wall"].append(told.pop("wall"))
    entry.update(told)


def _note_limits(cases: list[Case], measured: dict[str, Measured], work: Path) -> None:
    """The limit of (c) in float32, and that of (d) in the precision that it chose."""
    chosen = measured[cases[0].name][DEFAULT]["spec"]["dtype"]
    for name, dtype in ((FP32_LIMIT, "float32"), (LIMIT, "bfloat16" if chosen == "bfloat16" else "float32")):
        say(f"the limit in {dtype}")
        told = run(python("bench.limit", work, "--dtype", dtype)).last_json()
        for case in cases:
            entry = measured[case.name].setdefault(name, {"decode_s": [], "products_s": [], "dtype": dtype})
            for part in ("decode_s", "products_s"):
                entry[part].append(told[case.name][part])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.embed", description="Memes a second, against two peers.")
    parser.add_argument("--data", default="demo/memes", help="folder of memes, or one CSV (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everyone runs (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=0, help="at most so many of each case (default: all)")
    parser.add_argument("--without-clip-retrieval", action="store_true", help="where no package registry is reachable")
    return parser


if __name__ == "__main__":
    sys.exit(main())
