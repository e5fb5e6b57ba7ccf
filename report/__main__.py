"""What a bundle is worth, on one page; or two bundles side by side.

    python -m report artifacts/bundles/latest
    python -m report compare artifacts/bundles/A artifacts/bundles/B

The first time, a bundle is judged on the test split, which is read for that alone and never again. Results go to
stdout, notes to stderr. Exit codes: 0 done, 2 something to put right, said in a sentence, 130 stopped by Ctrl-C.
"""

import argparse
import re
import sys
from pathlib import Path

from jinja2 import UndefinedError

from cache import limit_threads, refuse, write_bytes_atomically
from head.bundle.evaluation import evaluate_bundle
from head.bundle.format import UnusableBundle, read_part
from head.bundle.readings import read_readings
from head.judge.shares import share_of
from head.judge.verdict import verdict
from report import words
from report.compare import compare_bundles, comparison_table, render_comparison, said
from report.costs import Use
from report.judged import read_judged
from report.page import render
from report.pictures import thumbnails

# Characters of a bundle's name in a file's: file systems allow 255 bytes, and a character may take four.
_LONGEST_NAME = 50
# What reading a value that is not there, or is of another kind, raises.
_DAMAGED = (KeyError, IndexError, TypeError, AttributeError, UndefinedError)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    limit_threads()
    try:
        if given[:1] == ["compare"]:
            _compare(_compare_parser().parse_args(given[1:]))
        else:
            _report(_parser().parse_args(given))
    except (ValueError, OSError) as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description="Judge a model bundle once and write its report.html.",
        epilog="`python -m report compare A B` puts two bundles side by side.",
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, default=Path("artifacts/bundles/latest"), help="default: %(default)s"
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    parser.add_argument(
        "--prevalence",
        type=share_of,
        default=None,
        help="share of offensive memes where the model is used: 0.02, 2%%; default: that of the judged memes",
    )
    parser.add_argument("--miss", type=float, default=1.0, help="cost of an offensive meme that is not flagged")
    parser.add_argument("--alarm", type=float, default=1.0, help="cost of another meme that is flagged")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m report compare", description="Put two bundles, each with its report, side by side."
    )
    parser.add_argument("first", type=Path, metavar="A", help="bundle that the other is compared with")
    parser.add_argument("second", type=Path, metavar="B")
    return parser


def _report(options: argparse.Namespace) -> None:
    folder, use = options.bundle, Use(options.prevalence, options.miss, options.alarm)
    evaluate_bundle(folder, options.artifacts, lambda note: print(note, file=sys.stderr))
    judged = read_judged(folder)
    gallery = read_part(folder, "gallery.json")
    try:
        nested = _nested(judged.config, options.artifacts)
        readings = read_readings(options.artifacts, judged.config)
        page = render(
            judged.config, judged.metrics, judged.predictions, gallery, nested, _pictures(gallery), readings, use
        )
        table, verdict_words = (
            words.methods_table(judged.config, judged.metrics),
            verdict(judged.config, judged.metrics),
        )
    except _DAMAGED as error:
        raise UnusableBundle(_damaged(folder, error)) from error
    path = folder / "report.html"
    _write(path, page)
    print(f"{table}\n\n* shipped")
    if judged.metrics["split"] == "test" and readings:
        print(f"The test memes have been {words.readings_words(readings)}.")
    print(f"The report has the other figures and every interval.\n\n{verdict_words}\n\nreport  {path}")


def _compare(options: argparse.Namespace) -> None:
    first, second = (read_judged(folder) for folder in (options.first, options.second))
    try:
        comparison = compare_bundles(first, second)
        page = render_comparison(first, second, comparison)
    except _DAMAGED as error:
        raise UnusableBundle(_damaged(f"{options.first}, {options.second}", error)) from error
    # The name comes from a file, and becomes part of a path.
    name = re.sub(r"[^\w.-]", "_", second.config["name"])[-_LONGEST_NAME:]
    path = options.first / f"compare-{name}.html"
    _write(path, page)
    print(f"{comparison_table(comparison)}\n\n{said(comparison)}\n\npage  {path}")


def _nested(config: dict, artifacts: Path) -> dict | None:
    """What `python -m head nested` found on the same memes and vectors; None where it was not run on these."""
    data = config["data"]
    found = read_part(artifacts / "nested" / Path(data["index"]).stem, "nested.json")
    return found if found is not None and found["fingerprint"] == data["fingerprint"] else None


def _pictures(gallery: dict | None) -> dict[str, str]:
    if gallery is None:
        return {}
    memes = [meme for mistake in gallery["mistakes"] for meme in (mistake, *mistake["neighbours"])]
    memes += gallery.get("suspects", [])
    return thumbnails(gallery["data"], [meme["image"] for meme in memes], gallery.get("images", ""))


def _damaged(folder: Path | str, error: Exception) -> str:
    return f"{folder}: a JSON file of the bundle is not what it should be ({error!r}); run `python -m head tune` again"


def _write(path: Path, page: str) -> None:
    """Surrogates, which stand for bytes of file names that are no UTF-8, become escapes."""
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
