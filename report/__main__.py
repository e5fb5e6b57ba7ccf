"""Evaluate a bundle and write its report, or compare two bundles.

    python -m report artifacts/bundles/latest
    python -m report compare artifacts/bundles/A artifacts/bundles/B

The first run evaluates the bundle on the test split; later runs use those predictions. Results go to stdout, notes to
stderr. Exit codes: 0 done, 2 bad input, with a message on stderr, 130 stopped by Ctrl-C.
"""

import argparse
import re
import sys
from pathlib import Path

from jinja2 import UndefinedError

from cache import Layout, limit_threads, refuse, write_bytes_atomically
from head.bundle.evaluation import evaluate_bundle
from head.bundle.format import UnusableBundle, read_part
from head.bundle.readings import read_readings
from head.judge.shares import share_of
from head.judge.verdict import verdict
from report import words
from report.compare import compare_bundles, comparison_summary, comparison_table, render_comparison
from report.costs import CostModel
from report.judged import read_judged
from report.page import render
from report.pictures import thumbnails

# Characters of a bundle's name in a file name, which may have 255 bytes.
_LONGEST_NAME = 50
# Raised for missing values and values of a wrong type.
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
        description="Evaluate a model bundle once and write its report.html.",
        epilog="`python -m report compare A B` compares two bundles.",
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, default=Path("artifacts/bundles/latest"), help="default: %(default)s"
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    parser.add_argument(
        "--prevalence",
        type=share_of,
        default=None,
        help="share of offensive memes where the model is used: 0.02, 2%%; default: that of the evaluated memes",
    )
    parser.add_argument("--miss", type=float, default=1.0, help="cost of an offensive meme that is not flagged")
    parser.add_argument("--alarm", type=float, default=1.0, help="cost of a non-offensive meme that is flagged")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m report compare", description="Compare two bundles that have a report."
    )
    parser.add_argument("first", type=Path, metavar="A", help="bundle to compare with")
    parser.add_argument("second", type=Path, metavar="B")
    return parser


def _report(options: argparse.Namespace) -> None:
    folder, cost_model = options.bundle, CostModel(options.prevalence, options.miss, options.alarm)
    evaluate_bundle(folder, options.artifacts, lambda note: print(note, file=sys.stderr))
    judged = read_judged(folder)
    gallery = read_part(folder, "gallery.json")
    try:
        nested = _nested(judged.config, options.artifacts)
        readings = read_readings(options.artifacts, judged.config)
        page = render(
            judged.config, judged.metrics, judged.predictions, gallery, nested, _pictures(gallery), readings, cost_model
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
        print(f"The test split has been {words.readings_words(readings)}.")
    print(f"The report has the other metrics and all intervals.\n\n{verdict_words}\n\nreport  {path}")


def _compare(options: argparse.Namespace) -> None:
    first, second = (read_judged(folder) for folder in (options.first, options.second))
    try:
        comparison = compare_bundles(first, second)
        page = render_comparison(first, second, comparison)
    except _DAMAGED as error:
        raise UnusableBundle(_damaged(f"{options.first}, {options.second}", error)) from error
    # The name from config.json becomes part of a path.
    name = re.sub(r"[^\w.-]", "_", second.config["name"])[-_LONGEST_NAME:]
    path = options.first / f"compare-{name}.html"
    _write(path, page)
    print(f"{comparison_table(comparison)}\n\n{comparison_summary(comparison)}\n\npage  {path}")


def _nested(config: dict, artifacts: Path) -> dict | None:
    """The result of `python -m head nested` on the same memes and embeddings; None if there is none."""
    data = config["data"]
    found = read_part(Layout(artifacts).nested(Path(data["index"]).stem), "nested.json")
    return found if found is not None and found["fingerprint"] == data["fingerprint"] else None


def _pictures(gallery: dict | None) -> dict[str, str]:
    if gallery is None:
        return {}
    memes = [meme for mistake in gallery["mistakes"] for meme in (mistake, *mistake["neighbours"])]
    memes += gallery.get("suspects", [])
    return thumbnails(gallery["data"], [meme["image"] for meme in memes], gallery.get("images", ""))


def _damaged(folder: Path | str, error: Exception) -> str:
    return f"{folder}: a JSON file of the bundle is damaged ({error!r}); run `python -m head tune` again"


def _write(path: Path, page: str) -> None:
    """Write the page as UTF-8; surrogates (bytes of file names that are not UTF-8) are escaped."""
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
