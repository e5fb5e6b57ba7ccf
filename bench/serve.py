"""Throughput and latency of our server against a plain Flask view and LitServe, on the same module.

    python -m bench.serve --data FOLDER    (`make bench-serve DATA=FOLDER`)

Memes as multipart forms over loopback, one bundle over random ViT-B-32, 1, 8 and 32 clients, one server at a time, in
alternating order. Progress goes to stderr, a table to stdout; the last line is one JSON object. Exit 0, also for missed
goals; 1: the contenders' probabilities differ.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from api.settings import ServeSettings
from bench.client import Meme, Message, ask, in_turn, percentiles, read_memes, with_repeats
from bench.environment import PeerUnavailable
from bench.machine import CommandFailed, describe, print_json, python, run, say, verdict
from bench.peers import FIRST
from bench.servers import LITSERVE, Server, install_litserve, make_bundle, serving
from bench.weights import MODEL
from cache import cores

_CLIENTS = (1, 8, 32)
# The response has six decimals; differences by batching are smaller.
_TOLERANCE = 1e-6
_PLAIN, _LITSERVE, _OURS, _CACHED, _ALONE = "plain", "litserve", "ours", "ours_cached", "alone"
_LABELS = {
    _PLAIN: "(a) Flask + waitress",
    _LITSERVE: "(b) LitServe",
    _OURS: "(c) ours, nothing kept",
    _CACHED: "(d) ours, 30 % repeats",
}
_COLUMNS = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms")
# name: figure, clients, the other contender, minimum and maximum of the ratio ours / other
_GOALS: dict[str, tuple[str, int, str, float | None, float | None]] = {
    "p50 c/alone, 1 client": ("p50_ms", 1, _ALONE, None, 1.1),
    "requests/s c/a, 32 clients": ("requests_per_s", 32, _PLAIN, 1.5, None),
    "requests/s c/b, 32 clients": ("requests_per_s", 32, _LITSERVE, 1.2, None),
    "p99 c/a, 32 clients": ("p99_ms", 32, _PLAIN, None, 1.0),
    "p99 c/b, 32 clients": ("p99_ms", 32, _LITSERVE, None, 1.0),
}


@dataclass(frozen=True)
class Contender:
    """A server to measure. stands_for: one of _LABELS; of several variants, the fastest at 32 clients counts."""

    name: str
    stands_for: str
    setup: str
    command: Sequence[str | Path]
    ready: str
    stream: Callable[[Sequence[Meme]], Iterator[Message]] = in_turn


def main() -> int:
    """Measure and print; exit code 1 if the probabilities differ."""
    args = _parser().parse_args()
    machine = describe()
    interpreter, why_not = _litserve()
    memes = read_memes(args.data)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        bundle = make_bundle(args.data, Path(folder))
        contenders = _contenders(bundle, interpreter)
        rounds = [_round(n, contenders, memes, bundle, args.data, args.seconds) for n in range(args.rounds)]
    result = {
        "benchmark": "serve",
        "data": args.data.resolve().name,
        "memes": len(memes),
        "body": "multipart/form-data",
        "model": f"{MODEL}, random weights",
        "machine": machine,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "statistic": "at each number of clients the round with most requests/s",
        "litserve": {"version": LITSERVE, "missing": why_not},
        **summary({c.name: c.stands_for for c in contenders}, rounds),
        "setups": {c.name: c.setup for c in contenders},
    }
    print(_table(result))
    print_json(result)
    return 0 if result["agree"] else 1


def _litserve() -> tuple[Path | None, str | None]:
    try:
        return install_litserve(), None
    except PeerUnavailable as error:
        say(str(error))
        return None, str(error)


def _contenders(bundle: Path, interpreter: Path | None) -> list[Contender]:
    ours, torch = ServeSettings(), f"torch {cores()} threads"
    setup = f"one process, waitress {ours.queue} + 8 threads, model in a thread for each core, batches of up to {ours.batch}"
    plain = [
        Contender(
            f"{_PLAIN}, {threads} threads", _PLAIN,
            f"one process, waitress {threads} threads{' (its default)' * (threads == 4)}, each runs the module, {torch}",
            python("bench.peers", "plain", "--bundle", bundle, "--threads", str(threads)), "/healthz",
        )
        for threads in (4, 8)
    ]  # fmt: skip
    litserve = [
        Contender(
            f"{_LITSERVE}, {workers} workers", _LITSERVE,
            f"{workers} worker processes, {workers} HTTP processes, max_batch_size 8, batch_timeout 10 ms, fast_queue, "
            f"each torch and decoding in {max(1, cores() // workers)} threads",
            [interpreter, "-m", "bench.litserve_peer", "--bundle", bundle, "--workers", str(workers)], "/health",
        )
        for workers in (1, 2)
        if interpreter
    ]  # fmt: skip
    serve = python("api", "serve", "--bundle", bundle, "--ocr", "off")
    return [
        *plain,
        *litserve,
        Contender(_OURS, _OURS, setup, [*serve, "--cache", "0"], "/readyz"),
        Contender(_CACHED, _CACHED, f"{setup}, {ours.cache} vectors kept", serve, "/readyz", with_repeats),
    ]


def _round(
    number: int, contenders: list[Contender], memes: list[Meme], bundle: Path, data: Path, seconds: float
) -> dict[str, Any]:
    """Measure every contender once, in alternating order, so that a slowdown of the machine affects all alike."""
    found: dict[str, Any] = {}
    for contender in contenders[:: -1 if number % 2 else 1]:
        with serving(contender.command, contender.ready) as server:
            found[contender.name] = _measure(server, contender.stream(memes), memes, seconds)
        rates = ", ".join(f"{n}: {found[contender.name]['clients'][n]['requests_per_s']}/s" for n in map(str, _CLIENTS))
        say(f"round {number + 1}, {contender.name}: {rates}")
    options = ["--seconds", str(seconds), "--batch", str(ServeSettings().batch)]
    found[_ALONE] = run(python("bench.peers", "alone", "--bundle", bundle, "--data", data, *options)).last_json()
    return found


def _measure(server: Server, stream: Iterator[Message], memes: list[Meme], seconds: float) -> dict[str, Any]:
    """Warm up and compare on the first memes, one at a time and concurrently; then each number of clients."""
    first = list(itertools.islice(in_turn(memes), FIRST))
    probabilities = [_probabilities(server, first, clients) for clients in (1, 8)]
    clients = {}
    for count in _CLIENTS:
        measured = ask(server.port, stream, count, seconds)
        clients[str(count)] = measured.figures()
        if count == 1:
            clients["1"]["each_ms"] = [round(answer.seconds * 1000, 3) for answer in measured.ok()]
    return {"ready_s": server.ready_s, "probabilities": probabilities, "clients": clients}


def _probabilities(server: Server, messages: list[Message], clients: int) -> list[float]:
    answers = ask(server.port, messages, clients).ok()
    if len(answers) != len(messages):
        raise CommandFailed(f"expected {len(messages)} answers with status 200, got {len(answers)}")
    return [json.loads(answer.body)["probability"] for answer in answers]


def summary(stands_for: dict[str, str], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of every contender, the chosen variants, ratios, goals, differences."""
    figures = {name: _best(name, rounds) for name in stands_for}
    chosen = {
        label: max(names, key=lambda name: figures[name]["32"]["requests_per_s"])
        for label in _LABELS
        if (names := [name for name in stands_for if stands_for[name] == label])
    }
    batch_ms = min(found[_ALONE]["batch_ms"] for found in rounds)
    alone = min((found[_ALONE]["ms"] for found in rounds), key=np.median)
    # the same memes for both: memes differ more than servers
    both = min(len(alone), len(figures[_OURS]["1"]["each_ms"]))
    single_ours = percentiles([ms / 1000 for ms in figures[_OURS]["1"]["each_ms"][:both]])
    single_alone = percentiles([ms / 1000 for ms in alone[:both]])
    compared = {name: figures[of] for name, of in chosen.items()} | {_ALONE: {"1": single_alone}}
    ours = {**figures[_OURS], "1": {**figures[_OURS]["1"], **single_ours}}
    ratios = {name: _over(ours, compared, goal) for name, goal in _GOALS.items()}
    differences = _differences(rounds)
    for entry in figures.values():
        entry["1"].pop("each_ms")
    return {
        "contenders": figures,
        "chosen": chosen,
        "single": {"memes": both, "ours": single_ours, "alone": single_alone},
        "alone": {
            "batch_ms": batch_ms,
            "threads": rounds[0][_ALONE]["threads"],
        },
        # upper bound: the same work without HTTP
        "limit_per_s": round(1000 * ServeSettings().batch / batch_ms, 2),
        "ratios": ratios,
        "goals": {name: _met(ratios[name], least, most) for name, (_, _, _, least, most) in _GOALS.items()},
        "differences": differences,
        "agree": max(differences.values()) <= _TOLERANCE,
    }


def _best(name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """For each number of clients, the figures of the fastest round, and the rates of all rounds."""
    found: dict[str, Any] = {"ready_s": min(one[name]["ready_s"] for one in rounds)}
    for count in map(str, _CLIENTS):
        entries = [one[name]["clients"][count] for one in rounds]
        rates = [entry["requests_per_s"] for entry in entries]
        found[count] = {**entries[rates.index(max(rates))], "each_round": rates}
    return found


def _over(ours: dict[str, Any], others: dict[str, Any], goal: tuple[str, int, str, Any, Any]) -> float | None:
    figure, clients, other, _, _ = goal
    return round(ours[str(clients)][figure] / others[other][str(clients)][figure], 3) if other in others else None


def _met(ratio: float | None, least: float | None, most: float | None) -> bool | None:
    if ratio is None:
        return None
    return (least is None or ratio >= least) and (most is None or ratio <= most)


def _differences(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Maximum difference of each contender's probabilities, one at a time and concurrent, from the module's own."""
    right = np.array(rounds[0][_ALONE]["probabilities"])
    return {
        name: max(float(np.abs(np.array(found[name]["probabilities"]) - right).max()) for found in rounds)
        for name in rounds[0]
        if name != _ALONE
    }


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'requests/s, p50, p95, p99 ms':38}" + "".join(f"{f'{n} client' + 's' * (n > 1):>32}" for n in _CLIENTS)]
    for label, title in _LABELS.items():
        name = result["chosen"].get(label)
        cells = [_cell(result["contenders"][name][str(n)]) if name else "-" for n in _CLIENTS]
        lines.append(f"{title:38}" + "".join(f"{cell:>32}" for cell in cells))
    for name in sorted(result["contenders"].keys() - result["chosen"].values()):
        cells = [_cell(result["contenders"][name][str(n)]) for n in _CLIENTS]
        lines.append(f"{f'    slower: {name}':38}" + "".join(f"{cell:>32}" for cell in cells))
    limit, rate = result["limit_per_s"], result["contenders"][_OURS]["32"]["requests_per_s"]
    lines.append(
        f"decoding and module in batches, without HTTP: {limit}/s; (c) at 32 clients is at {rate / limit:.0%} of it"
    )
    single = result["single"]
    lines.append(f"{'decoding and module alone, one by one':38}{_cell({**single['alone'], _COLUMNS[0]: ''}):>32}")
    lines.append(f"{'(c) on the same memes':38}{_cell({**single['ours'], _COLUMNS[0]: ''}):>32}")
    for name, (_, _, _, least, most) in _GOALS.items():
        bound = f"{least:g} or more" if least else f"{most:g} or less"
        lines.append(f"{f'{name}, goal {bound}':50}{result['ratios'][name]} {verdict(result['goals'][name])}")
    lines += [f"{name} of {cores()} cores: {result['setups'][name]}" for name in result["chosen"].values()]
    lines.append(f"largest difference of a probability: {max(result['differences'].values()):.1e}")
    lines += [
        f"{name}, {n} clients: {count} answers {status}, not in the figures"
        for name in result["chosen"].values()
        for n in _CLIENTS
        for status, count in result["contenders"][name][str(n)]["answers"].items()
        if status != "200"
    ]
    missing = result["litserve"]["missing"]
    return "\n".join(lines + ([f"(b) was not measured: {missing}"] if missing else []))


def _cell(figures: dict[str, Any]) -> str:
    rate, *latencies = (figures[column] for column in _COLUMNS)
    return f"{rate:>6}" + "".join(f"{'-' if ms is None else f'{ms:.0f}':>7}" for ms in latencies)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description="Our server against two others.")
    parser.add_argument("--data", type=Path, default=Path("demo/memes"), help="folder of memes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each contender (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of new requests at each number of clients (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
