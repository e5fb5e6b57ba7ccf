"""Evaluate a bundle and write its report, or compare two bundles.

    python -m report artifacts/bundles/latest
    python -m report compare artifacts/bundles/A artifacts/bundles/B

The first run evaluates the bundle on the test split; later runs use those predictions. Results go to stdout, notes to
stderr. Exit codes: 0 done, 2 bad input, with a message on stderr, 130 stopped by Ctrl-C.
"""

import sys
from pathlib import Path

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache import find_bundle, limit_threads
from head.judge.shares import share_of
from report.costs import CostModel

_ARTIFACTS = Path("artifacts")


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["compare"]:
        _compare(given[1:])
    else:
        _report(given)
    return 0


def _report(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    folder = find_bundle(options.bundle, options.artifacts)
    cost_model = CostModel(options.prevalence, options.miss, options.alarm)
    announce("report", bundle=folder, artifacts=options.artifacts)
    from report.command import run_report  # imports torch and matplotlib, which takes seconds

    limit_threads()
    run_report(folder, options.artifacts, cost_model)


def _compare(arguments: list[str]) -> None:
    options = _compare_parser().parse_args(arguments)
    first, second = (find_bundle(bundle, _ARTIFACTS) for bundle in (options.first, options.second))
    announce("compare", A=first, B=second)
    from report.command import run_compare  # as above

    limit_threads()
    run_compare(first, second)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m report",
        description="Evaluate a model bundle once and write its report.html.",
        epilog="`python -m report compare A B` compares two bundles.",
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, default=Path("artifacts/bundles/latest"), help="default: %(default)s"
    )
    parser.add_argument("--artifacts", type=Path, default=_ARTIFACTS, help="folder of vectors and results")
    parser.add_argument(
        "--prevalence",
        type=share_of,
        default=None,
        help="share of offensive memes where the model is used: 0.02, 2%%; default: that of the evaluated memes",
    )
    parser.add_argument("--miss", type=float, default=1.0, help="cost of an offensive meme that is not flagged")
    parser.add_argument("--alarm", type=float, default=1.0, help="cost of a non-offensive meme that is flagged")
    return parser


def _compare_parser() -> Parser:
    parser = Parser(prog="python -m report compare", description="Compare two bundles that have a report.")
    parser.add_argument("first", type=Path, metavar="A", help="bundle to compare with, a folder or a name")
    parser.add_argument("second", type=Path, metavar="B")
    return parser


if __name__ == "__main__":
    run_as_command(main)
