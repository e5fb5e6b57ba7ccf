"""Near-copies of a million hashes: time and memory. Goal: under 2 minutes and 4 GB, and no slower than faiss.

    python -m bench.near --hashes 1000000    (`make bench-near`)

A tenth of the hashes is one hash, a tenth within 4 bits of one hash, a tenth a few templates with up to 25 bits changed, two
tenths are copies of others with up to 8 bits changed, a tenth agrees in a quarter of its bits; the rest is random. On
fewer of them the clusters are compared with faiss (`bench.near_peer`: all pairs, and bands of the hash), in an
environment of its own; then near texts: words by Zipf's law, near-copies, and one text with a word of each copy's own.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import environment
from bench.machine import (
    BENCH_FOLDER,
    CommandFailed,
    describe,
    print_json,
    python,
    require_own_peak,
    run,
    say,
    verdict,
)
from embed.data.near_duplicates import near_pictures, near_texts, words

_GOAL_S, _GOAL_MB = 120.0, 4000.0
_PINS = ("faiss-cpu==1.15.1", "numpy==2.4.6", "scipy==1.17.1")
_PEERS = ("bands", "all-pairs")
_VOCABULARY = 60_000


def main() -> int:
    """Time ours, and the peers on fewer hashes."""
    args = _parser().parse_args()
    if args.measure:
        print(json.dumps(_measure(args.measure, args.items)))
        return 0
    machine, results = describe(), dict[str, Any]()
    peer = environment.install("faiss", BENCH_FOLDER / "faiss", _PINS, ["-c", "import faiss, scipy"], {})
    with tempfile.TemporaryDirectory(prefix="bench-near-") as folder:
        fewer, all_, text = (Path(folder, name) for name in ("fewer.npy", "all.npy", "texts"))
        np.save(fewer, draw(args.fewer))
        np.save(all_, draw(args.hashes))
        text.write_text("\n".join(_texts(args.texts)), "utf-8")
        ours = {f"ours, {np.load(file, mmap_mode='r').shape[0]:,} hashes": file for file in (fewer, all_)}
        commands = {name: python("bench.near", "--measure", "hashes", "--items", file) for name, file in ours.items()}
        for way in _PEERS:
            commands[f"faiss, {way}, {args.fewer:,} hashes"] = [peer, "bench/near_peer.py", way, fewer]
        commands[f"ours, {args.texts:,} texts"] = python("bench.near", "--measure", "texts", "--items", text)
        for name, command in commands.items():
            done = run(command)
            results[name] = done.last_json() | {"peak_mb": round(done.peak_mb)}
            say(f"{name}: {results[name]}")
    agree = {tuple(one["sizes"]) for name, one in results.items() if f"{args.fewer:,} hashes" in name}
    if len(agree) > 1:
        raise CommandFailed(f"ours and faiss find different clusters: {agree}")
    largest = results[f"ours, {args.hashes:,} hashes"]
    met = largest["seconds"] < _GOAL_S and require_own_peak(largest["peak_mb"]) < _GOAL_MB
    print(f"{'':36}seconds   peak MB   clusters     items in them")
    for name, one in results.items():
        print(f"{name:34}{one['seconds']:9.1f}{one['peak_mb']:10}{one['sizes'][0]:11,}{one['sizes'][1]:18,}")
    print(f"goal for {args.hashes:,} hashes, under {_GOAL_S:.0f} s and {_GOAL_MB:.0f} MB: {verdict(met)}")
    print_json({"benchmark": "near", "machine": machine, "results": results, "met": met})
    return 0


def _measure(kind: str, items: Path) -> dict[str, Any]:
    drawn: Any = np.load(items) if kind == "hashes" else map(words, items.open("r", encoding="utf-8"))
    started = time.monotonic()
    clusters = near_pictures(drawn) if kind == "hashes" else near_texts(drawn)
    return {"seconds": round(time.monotonic() - started, 2), "sizes": [len(clusters), sum(map(len, clusters))]}


def draw(count: int) -> np.ndarray:
    """(N, 4) uint64 hashes, see above, in random order; the same for the same N."""
    random = np.random.default_rng(0)
    hashes, tenth = random.integers(0, 2**64, (count, 4), np.uint64), count // 10
    hashes[:tenth] = 0
    hashes[tenth : 2 * tenth] = _changed(hashes[[-1]].repeat(tenth, axis=0), 4, random)
    templates = random.integers(0, 2**64, (max(1, tenth // 1000), 4), np.uint64)
    hashes[2 * tenth : 3 * tenth] = _changed(templates[random.integers(0, len(templates), tenth)], 25, random)
    hashes[3 * tenth : 5 * tenth] = _changed(hashes[5 * tenth : 7 * tenth], 8, random)
    hashes[7 * tenth : 8 * tenth, 0] = 7
    return hashes[random.permutation(count)]


def _changed(hashes: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Copies with up to `most` bits flipped."""
    hashes = hashes.copy()
    for _ in range(most):
        bits, flipped = random.integers(0, 256, len(hashes)), random.random(len(hashes)) < 0.8
        hashes[np.arange(len(hashes)), bits // 64] ^= flipped.astype(np.uint64) << (bits % 64).astype(np.uint64)
    return hashes


def _texts(count: int) -> Iterator[str]:
    """`count` texts, in tens: six alone, one with a near-copy, two with 40 common words and one of their own."""
    random = np.random.default_rng(0)
    share = np.cumsum(1 / np.arange(1, _VOCABULARY + 1))

    def drawn(length: float) -> str:
        return " ".join(f"w{n}" for n in np.searchsorted(share / share[-1], random.random(int(length))))

    common, text = drawn(40), ""
    for number in range(count):
        kind = number % 10
        text = drawn(10 + random.gamma(2, 12)) if kind < 7 else text if kind < 8 else common
        yield text if kind < 7 else f"{text} own{number}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.near", description="Near-copies of a million hashes.")
    parser.add_argument("--hashes", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--fewer", type=int, default=100_000, help="of them for the peers (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=200_000, help="(default: %(default)s)")
    parser.add_argument("--measure", choices=("hashes", "texts"), help=argparse.SUPPRESS)
    parser.add_argument("--items", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
