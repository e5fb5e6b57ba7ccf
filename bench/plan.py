"""Time of a run with nothing to do: 100,000 memes, all cached, files unchanged. Goal: under 10 s.

    python -m bench.plan --memes 100000    (`make bench-plan`)

Tiny distinct pictures and texts; `bench.fill` fills the cache; then `python -m embed` runs as a whole, without and with
`--rehash`, which reads every picture. It loads no model, which is checked in its JSON output.
"""

import argparse
import csv
import sys
import tempfile
import zlib
from pathlib import Path

from bench.machine import CommandFailed, Run, describe, print_json, python, require_own_peak, run, say, verdict

_GOAL_S = 10.0


def main() -> int:
    """Make the folder, fill the cache, time the runs."""
    args = _parser().parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        work = Path(folder)
        say(f"drawing {args.memes:,} pictures")
        _draw(work / "memes", args.memes)
        say("filling the cache")
        filled = run(python("bench.fill", *_source(work)))
        rounds: dict[str, list[Run]] = {"unchanged": [], "rehash": []}
        for _ in range(args.rounds):
            for name, flags in (("unchanged", []), ("rehash", ["--rehash"])):
                again = run(python("embed", *_source(work), "--json", *flags))
                _require_nothing_done(again, args.memes)
                rounds[name].append(again)
                say(f"{name}: {again.seconds:.1f} s, {again.peak_mb:.0f} MB")
    best = {name: min(runs, key=lambda one: one.seconds) for name, runs in rounds.items()}
    met = best["unchanged"].seconds < _GOAL_S
    print(f"{args.memes:,} memes, all cached          seconds   peak MB")
    for name, one in best.items():
        print(f"  {name:32}{one.seconds:8.2f}{one.peak_mb:10.0f}")
    print(f"goal for unchanged files, under {_GOAL_S:.0f} s: {verdict(met)}")
    print_json(
        {
            "benchmark": "plan",
            "memes": args.memes,
            "machine": machine,
            "rounds": {name: [round(one.seconds, 3) for one in runs] for name, runs in rounds.items()},
            "seconds": {name: round(one.seconds, 3) for name, one in best.items()},
            "peak_mb": {name: round(require_own_peak(one.peak_mb)) for name, one in best.items()},
            "fill_s": round(filled.seconds, 1),
            "goal_s": _GOAL_S,
            "met": met,
        }
    )
    return 0


def _source(work: Path) -> list[str | Path]:
    # the weights file must exist: the job records its size and times
    return [
        "--data",
        work / "memes",
        "--model",
        "fake",
        "--pretrained",
        work / "weights",
        "--artifacts",
        work / "artifacts",
    ]


def _draw(folder: Path, count: int) -> None:
    """`count` PNGs of one pixel, each with a distinct text chunk, and their table."""
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    with (folder / "memes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "split"])
        for number in range(count):
            name = f"{number:06d}.png"
            (pictures / name).write_bytes(_png(number))
            writer.writerow([name, f"the text of meme number {number}", number % 2, "train"])
    (folder.parent / "weights").write_bytes(b"none")


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
