"""Time and memory of a run with nothing to do: all memes cached, files unchanged. Goals: 10 s, 1 kB a meme, for 1,000,000.

    python -m bench.plan --memes 100000    (`make bench-plan`)

Tiny distinct pictures and texts, and a store of 8-dimensional vectors of them, since planning reads no vector. `python -m
embed` runs as a whole: first with all pictures to be hashed, then without and with `--rehash`. It loads no model, which is
checked in its JSON output. The table has a validation split: finding near-copies for one is `bench.near`'s subject. Memory
of a meme: the peak above that of a data set of 100.
"""

import argparse
import csv
import hashlib
import sys
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np

from bench.machine import CommandFailed, Run, describe, print_json, python, require_own_peak, run, say, verdict
from cache import KINDS, KeyColumn, Layout, Segment, VectorStore, read_index, text_key
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.prompts import PROMPTS
from embed.clip.recall import remember_spec

_GOAL_S = 10.0  # for _GOAL_MEMES
_GOAL_MEMES = 1_000_000
_GOAL_BYTES = 1_000
_GOAL_INDEX_BYTES = 300
_FEW = 100
_SPEC = {"model": "fake", "feature": "projected", "dtype": "float32", "tokenizer": {"context_length": 77}}
_ROWS = 65_536


def main() -> int:
    """Make the folders, fill the caches, measure the runs."""
    args = _parser().parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for work, count in ((few, _FEW), (many, args.memes)):
            say(f"drawing {count:,} pictures")
            _draw(work, count)
        runs = {"first": _embed(many, args.memes)}
        for name, flags in (("unchanged", []), ("rehash", ["--rehash"])):
            rounds = [_embed(many, args.memes, *flags) for _ in range(args.rounds)]
            runs[name] = min(rounds, key=lambda one: one.seconds)
        base = _embed(few, _FEW).peak_mb
        (index,) = Layout(many / "artifacts").datasets.glob("*.h5")
        index_bytes = _index_bytes(index) / args.memes
    sizes = {name: (require_own_peak(one.peak_mb) - base) * 1024 * 1024 / args.memes for name, one in runs.items()}
    goal_s = _GOAL_S * args.memes / _GOAL_MEMES
    met = runs["unchanged"].seconds < goal_s and sizes["unchanged"] < _GOAL_BYTES and index_bytes < _GOAL_INDEX_BYTES
    print(f"{args.memes:,} memes, all cached          seconds   peak MB   bytes a meme")
    for name, one in runs.items():
        print(f"  {name:32}{one.seconds:8.2f}{one.peak_mb:10.0f}{sizes[name]:15.0f}")
    print(f"the index read back: {index_bytes:.0f} bytes a meme")
    print(
        f"goals for unchanged files: {goal_s:g} s, {_GOAL_BYTES} bytes a meme, {_GOAL_INDEX_BYTES} of the index: {verdict(met)}"
    )
    print_json(
        {
            "benchmark": "plan",
            "memes": args.memes,
            "machine": machine,
            "seconds": {name: round(one.seconds, 3) for name, one in runs.items()},
            "peak_mb": {name: round(one.peak_mb) for name, one in runs.items()},
            "bytes_per_meme": {name: round(size) for name, size in sizes.items()},
            "index_bytes_per_meme": round(index_bytes),
            "met": met,
        }
    )
    return 0


def _embed(work: Path, memes: int, *flags: str) -> Run:
    done = run(python("embed", *_source(work), "--json", *flags))
    _require_nothing_done(done, memes)
    say(f"{work.name} {' '.join(flags)}: {done.seconds:.1f} s, {done.peak_mb:.0f} MB")
    return done


def _index_bytes(index: Path) -> int:
    """What an index occupies when it has been read."""
    tracemalloc.start()
    held = read_index(index)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size if len(held) else 0


def _source(work: Path) -> list[str | Path]:
    # the weights file must exist: the job records its size and times
    source = {"data": "memes", "pretrained": "weights", "artifacts": "artifacts"}
    return ["--model", "fake", *(word for name, path in source.items() for word in (f"--{name}", work / path))]


def _draw(work: Path, count: int) -> None:
    """`count` PNGs of one pixel, each with a distinct text chunk, their table, and a store with their vectors."""
    pictures = work / "memes" / "images"
    pictures.mkdir(parents=True)
    keys = {kind: bytearray() for kind in KINDS}
    with (work / "memes" / "memes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "split"])
        for number in range(count):
            name, data = f"{number:07d}.png", _png(number)
            text = f"the text of meme number {number}, as long as many are"
            (pictures / name).write_bytes(data)
            writer.writerow([name, text, number % 2, "train" if number % 5 else "validation"])
            keys["image"] += hashlib.sha256(data).digest()
            keys["text"] += hashlib.sha256(text.encode()).digest()
    keys["text"] += b"".join(bytes.fromhex(text_key(text)) for texts in PROMPTS.values() for text in texts)
    _store(work, {kind: KeyColumn(np.frombuffer(digests, np.uint8)) for kind, digests in keys.items()})


def _store(work: Path, keys: dict[str, KeyColumn]) -> None:
    weights, layout = work / "weights", Layout(work / "artifacts")
    weights.write_bytes(b"none")
    store = VectorStore(layout.vectors, _SPEC)
    for kind, of_kind in keys.items():
        for start in range(0, len(of_kind), _ROWS):
            part = of_kind[start : start + _ROWS]
            store.add(kind, Segment(part, np.ones((len(part), 8), np.float32), np.full(len(part), 9, np.int32)))
    remember_spec(layout.encoders, EncoderRequest("fake", str(weights), EncoderOptions()), _SPEC, weights)


def _png(number: int) -> bytes:
    """A grey 1 x 1 PNG with a text chunk; Pillow would take minutes for all."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    size = (1).to_bytes(4) + (1).to_bytes(4) + bytes([8, 0, 0, 0, 0])
    parts = (chunk(b"IHDR", size), chunk(b"tEXt", b"n\0%d" % number), chunk(b"IDAT", _PIXEL), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_PIXEL = zlib.compress(b"\0\x80")


def _require_nothing_done(again: Run, memes: int) -> None:
    summary = again.last_json()
    if summary["memes"] != memes or any(summary["embedded"].values()) or summary["device"]:
        raise CommandFailed(f"expected {memes} memes and nothing embedded in the second run, got {summary}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.plan", description="A run with nothing to do.")
    parser.add_argument("--memes", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
