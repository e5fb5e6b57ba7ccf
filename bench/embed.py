"""Embedding throughput: our job against open_clip, clip-retrieval, ONNX Runtime, OpenVINO and a lower time bound.

    python -m bench.embed --data FOLDER    (`make bench-embed DATA=FOLDER`)

All contenders run on the same memes and random ViT-B-32 weights, in alternating order; the fastest round of each
counts. Progress goes to stderr, a table to stdout; the last line is one JSON object. Exit 0, also for missed goals; 1:
vectors differ.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, retrieval, runtimes
from bench.cases import Case, make_cases
from bench.environment import PeerUnavailable
from bench.figures import (
    DEFAULT,
    FP32,
    FP32_LIMIT,
    LIMIT,
    PEER,
    PLAIN,
    RUNTIMES,
    Measured,
    result,
    table,
    towers_table,
)
from bench.machine import describe, print_json, python, run, say
from bench.weights import MODEL, weights_file
from cache import cores


def main() -> int:
    """Measure and print; exit code 1 if the vectors differ."""
    args = _parser().parse_args()
    machine = describe()
    weights = weights_file()
    peers, missing = _install(
        {
            "clip-retrieval": (args.without_clip_retrieval, retrieval.install),
            "runtimes": (args.without_runtimes, lambda: runtimes.install(weights)),
        }
    )
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        work = Path(folder)
        cases = make_cases(Path(args.data), work, args.memes)
        say(f"{args.data}: " + ", ".join(f"{case.count} {case.name}" for case in cases))
        measured = _measure(cases, work, weights, peers, args.rounds)
        towers = _towers(work, weights, peers)
    results = {case.name: result(case, measured[case.name]) for case in cases}
    print(table(results, [f"{peer} was not measured: {reason}" for peer, reason in missing.items()]))
    print(towers_table(towers))
    agree = all(result["agrees"] for result in results.values())
    print_json(
        {
            "benchmark": "embed",
            "data": Path(args.data).resolve().name,
            "model": f"{MODEL}, random weights",
            "machine": machine,
            "rounds": args.rounds,
            "statistic": "fastest round",
            "clip_retrieval": retrieval.VERSION,
            "runtimes": runtimes.PINS,
            "missing": missing,
            "towers": towers,
            "cases": results,
            "vectors_agree": agree,
        }
    )
    return 0 if agree else 1


def _install(
    asked: Mapping[str, tuple[bool, Callable[[], Path]]],
) -> tuple[dict[str, Path], dict[str, str]]:
    """{peer: interpreter} of those that can be installed and are not left out, and {peer: reason} of the others."""
    peers, missing = {}, {}
    for name, (without, install) in asked.items():
        try:
            if without:
                raise PeerUnavailable(f"left out by --without-{name}")
            peers[name] = install()
        except PeerUnavailable as error:
            say(str(error))
            missing[name] = str(error)
    return peers, missing


def _measure(cases: list[Case], work: Path, weights: Path, peers: dict[str, Path], rounds: int) -> dict[str, Measured]:
    """Run every contender on every case, `rounds` times."""
    measured: dict[str, Measured] = {case.name: {} for case in cases}
    shards = {case.name: retrieval.write_shards(case) for case in cases} if "clip-retrieval" in peers else {}
    for number in range(rounds):
        for case in cases:
            contenders = _contenders(case, work, weights, peers, shards)
            contenders |= _runtimes(case, work, weights, peers)
            # alternating order, so that a slowdown of the machine affects all alike
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                entry = measured[case.name].setdefault(name, {"seconds": [], "wall": []})
                _record(entry, contenders[name]())
                say(f"round {number + 1}, {case.name}, {name}: {case.count / entry['seconds'][-1]:.1f} memes/s")
        _measure_limits(cases, measured, work)
    return measured


def _contenders(
    case: Case, work: Path, weights: Path, peers: dict[str, Path], shards: dict[str, str]
) -> dict[str, Callable[[], dict[str, Any]]]:
    contenders: dict[str, Callable[[], dict[str, Any]]] = {
        # workers decode in parallel; without them the model has all cores; the faster counts
        f"{PLAIN}, {workers} workers": partial(_plain, case, work, weights, workers, python("bench.plain"))
        for workers in (0, cores())
    }
    if "clip-retrieval" in peers:
        contenders[PEER] = lambda: dict(
            vars(retrieval.infer(peers["clip-retrieval"], case, shards[case.name], weights, work / "retrieval"))
        )
    contenders[FP32] = lambda: dict(vars(ours.embed(case, weights, work / "ours", "fp32")))
    contenders[DEFAULT] = lambda: dict(vars(ours.embed(case, weights, work / "ours")))
    return contenders


def _runtimes(case: Case, work: Path, weights: Path, peers: dict[str, Path]) -> dict[str, Callable[[], dict[str, Any]]]:
    """The plain loop with a worker for each core, around another runtime."""
    if "runtimes" not in peers:
        return {}
    command = (peers["runtimes"], "-m", "bench.plain")
    return {
        name: partial(_plain, case, work, weights, cores(), (*command, "--runtime", runtime, "--dtype", dtype))
        for name, (runtime, dtype) in RUNTIMES.items()
        if dtype in _dtypes()
    }


def _towers(work: Path, weights: Path, peers: dict[str, Path]) -> dict[str, Any]:
    """{dtype: {contender: {side: items/s}}}, of one process for each dtype."""
    if "runtimes" not in peers:
        return {}
    say("the towers alone")
    command = (peers["runtimes"], "-m", "bench.towers", work, weights)
    return {dtype: run([*command, "--dtype", dtype]).last_json() for dtype in _dtypes()}


def _dtypes() -> tuple[str, ...]:
    """Of products that this processor has instructions for."""
    half = {"avx512_bf16", "amx_bf16"} & set(describe()["matrix_flags"])
    return ("float32", "bfloat16") if half else ("float32",)


def _plain(case: Case, work: Path, weights: Path, workers: int, command: Sequence[str | Path]) -> dict[str, Any]:
    out = work / "plain.npz"
    sides = ["--no-images"] * (not case.images) + ["--no-texts"] * (not case.texts)
    done = run([*command, case.folder, weights, out, "--workers", str(workers), *sides])
    with np.load(out) as vectors:
        return {"seconds": done.last_json()["seconds"], "wall": done.seconds, "vectors": dict(vectors)}


def _record(entry: dict[str, Any], outcome: dict[str, Any]) -> None:
    entry["seconds"].append(outcome.pop("seconds"))
    entry["wall"].append(outcome.pop("wall"))
    entry.update(outcome)


def _measure_limits(cases: list[Case], measured: dict[str, Measured], work: Path) -> None:
    """The lower bounds of (c), in float32, and of (d), in the precision that it chose."""
    chosen = measured[cases[0].name][DEFAULT]["spec"]["dtype"]
    for name, dtype in ((FP32_LIMIT, "float32"), (LIMIT, "bfloat16" if chosen == "bfloat16" else "float32")):
        say(f"the limit in {dtype}")
        limits = run(python("bench.limit", work, "--dtype", dtype)).last_json()
        for case in cases:
            entry = measured[case.name].setdefault(name, {"decode_s": [], "products_s": [], "dtype": dtype})
            for part in ("decode_s", "products_s"):
                entry[part].append(limits[case.name][part])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.embed", description="Embedding throughput against two peers."
    )
    parser.add_argument("--data", default="demo/memes", help="folder of memes, or one CSV (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=0, help="maximum per case (default: all)")
    parser.add_argument(
        "--without-clip-retrieval", action="store_true", help="skip this peer, e.g. without a package registry"
    )
    parser.add_argument("--without-runtimes", action="store_true", help="skip ONNX Runtime and OpenVINO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
