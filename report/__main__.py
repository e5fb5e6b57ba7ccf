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

from cache import limit_threads, refuse
from head.bundle.format import demo_notice_of
from head.judge.shares import share_of
from head.judge.verdict import verdict
from report import words
from report.compare import compare_bundles, comparison_summary, comparison_table, render_comparison
from report.costs import CostModel
from report.judged import read_judged
from report.judging import damage_named, judge, page_path, write_page

# Characters of a bundle's name in a file name, which may have 255 bytes.
_LONGEST_NAME = 50


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
    judged = judge(folder, options.artifacts, cost_model, lambda note: print(note, file=sys.stderr))
    print(f"{words.methods_table(judged.config, judged.metrics)}\n\n* shipped")
    if judged.metrics["split"] == "test" and judged.readings:
        print(f"The test split has been {words.readings_words(judged.readings)}.")
    print("The report has the other metrics and all intervals.")
    paragraphs = (verdict(judged.config, judged.metrics), demo_notice_of(judged.config), f"report  {page_path(folder)}")
    print("\n" + "\n\n".join(filter(None, paragraphs)))


def _compare(options: argparse.Namespace) -> None:
    first, second = (read_judged(folder) for folder in (options.first, options.second))
    with damage_named(f"{options.first}, {options.second}"):
        comparison = compare_bundles(first, second)
        page = render_comparison(first, second, comparison)
    # The name from config.json becomes part of a path.
    name = re.sub(r"[^\w.-]", "_", second.config["name"])[-_LONGEST_NAME:]
    path = options.first / f"compare-{name}.html"
    write_page(path, page)
    notice = demo_notice_of(first.config) or demo_notice_of(second.config)
    paragraphs = (comparison_table(comparison), comparison_summary(comparison), notice, f"page  {path}")
    print("\n\n".join(filter(None, paragraphs)))


if __name__ == "__main__":
    sys.exit(main())
