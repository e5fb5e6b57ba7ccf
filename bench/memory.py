"""Peak memory of the embedding job for 1,000 and for 10,000 memes. Goal: a ratio of at most 1.10.

    python -m bench.memory    (`make bench-memory`)

The pictures of --data are copied with distinct comments, so that bytes and keys differ and pixels do not; texts get a
number. Uses the demo encoder.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.copies import write_copies
from bench.crash import MODEL
from bench.machine import CommandFailed, Run, describe, print_json, python, require_own_peak, run, say, verdict

_GOAL = 1.10


def main() -> int:
    """Measure both sizes, print the ratio."""
    args = _parser().parse_args()
    machine = describe()
    runs: dict[int, Run] = {}
    for count in (args.few, args.many):
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
            work = Path(folder)
            write_copies(args.data, work / "memes", count)
            say(f"embedding {count:,} memes")
            source = ("--data", work / "memes", "--model", MODEL, "--artifacts", work / "artifacts")
            runs[count] = run(python("embed", *source, "--device", "cpu", "--json"))
            summary = runs[count].last_json()
            if summary["embedded"] != {"image": count, "text": count}:
                raise CommandFailed(f"expected {count} embedded pictures and texts, got {summary['embedded']}")
    peaks = {count: require_own_peak(one.peak_mb) for count, one in runs.items()}
    ratio = peaks[args.many] / peaks[args.few]
    for count, peak in peaks.items():
        print(f"{count:>8,} memes   peak {peak:6.0f} MB   in {runs[count].seconds:.1f} s")
    print(f"ratio {ratio:.3f}, goal {_GOAL:.2f} or less: {verdict(ratio <= _GOAL)}")
    print_json(
        {
            "benchmark": "memory",
            "data": args.data.resolve().name,
            "machine": machine,
            "peak_mb": {str(count): round(peak, 1) for count, peak in peaks.items()},
            "seconds": {str(count): round(one.seconds, 1) for count, one in runs.items()},
            "ratio": round(ratio, 3),
            "goal": _GOAL,
            "met": ratio <= _GOAL,
        }
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Does memory grow with the data?")
    parser.add_argument("--data", type=Path, default=Path("demo/memes"), help="folder of memes (default: %(default)s)")
    parser.add_argument("--few", type=int, default=1_000, help="memes of the small set (default: %(default)s)")
    parser.add_argument("--many", type=int, default=10_000, help="memes of the large set (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
