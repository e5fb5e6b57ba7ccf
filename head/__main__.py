"""Tune a fusion head over cached vectors and write its model bundle, or cross-validate the tuning procedure.

    python -m head tune --data demo/memes --model local-dir:demo/encoder --trials 200
    python -m head nested --data demo/memes --model local-dir:demo/encoder

Needs the index and vectors that `make embed` writes to --artifacts; loads no CLIP and reads no test memes. Exit codes: 0
done; 2 refused, with the remedy in a sentence; 130 stopped by Ctrl-C, and the same command resumes.
"""

import argparse

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache import Layout, cores, find_index, limit_threads
from head.data.folds import PROTOCOLS, Protocol
from head.judge.shares import share_of
from head.judge.threshold import OBJECTIVES, Aim
from head.request import data_options, request_of
from head.search.config import StudyConfig, sqlite_url


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    request, protocol, aim = (
        request_of(options),
        Protocol(options.protocol, options.folds, options.repeats),
        _aim(options),
    )
    _check_study(options)
    announce(
        options.command, data=request.data, index=find_index(options.artifacts, request), artifacts=options.artifacts
    )
    # imported here: it takes seconds, and the arguments are judged before
    from head.command import device_of, run_nested, run_tune
    from head.search.study import ROUND
    from head.tuning import SearchRequest, Shipping

    limit_threads()
    search = SearchRequest(
        options.trials,
        options.seed,
        options.study,
        options.storage,
        protocol,
        aim,
        options.jobs or min(ROUND, cores()),
        device_of(options.device),
    )
    if options.command == "tune":
        run_tune(request, search, Shipping(options.ship, options.review), options.artifacts)
    else:
        run_nested(request, search, options.artifacts)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m head", description="Tune a fusion head over cached vectors.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in (
        ("tune", "search, choose an ensemble, write a model bundle"),
        ("nested", "nested cross-validation: an unbiased estimate of what `tune` does"),
    ):
        form = argparse.ArgumentDefaultsHelpFormatter
        command = commands.add_parser(name, help=purpose, formatter_class=form, parents=[data_options()])
        _add_search(command)
        _add_aim(command)
        if name == "tune":
            command.add_argument(
                "--ship",
                default="best",
                help="method to serve: ensemble, regression or a candidate's name; best: the strongest simple method, "
                "unless the ensemble is better",
            )
            command.add_argument(
                "--review",
                type=share_of,
                default=None,
                help="share of memes nearest the threshold left to human review: 0.2, 20 or 20%%",
            )
    return parser


def _add_search(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trials", type=int, default=StudyConfig.trials, help="total to reach, earlier runs of the study included"
    )
    command.add_argument(
        "--study", default=None, help="name of the study to resume; default: made from data, model and folds"
    )
    command.add_argument("--storage", default=None, help="database URL; default: a file in the folder of results")
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="kfold on train and validation, or train / validation",
    )
    command.add_argument("--folds", type=int, default=5, help="number of folds of the kfold protocol")
    command.add_argument("--repeats", type=int, default=1, help="repeats of all folds; for official, of the training")
    command.add_argument("--jobs", type=int, default=0, help="parallel trainings; 0: one per core, at most eight")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to train heads on")
    command.add_argument("--seed", type=int, default=0, help="of splits, folds, weights, search and intervals")


def _add_aim(command: argparse.ArgumentParser) -> None:
    aims = command.add_mutually_exclusive_group()
    plain = [objective for objective in OBJECTIVES if objective not in ("precision", "recall")]
    aims.add_argument("--objective", choices=plain, default=plain[0], help="metric that the threshold maximises")
    aims.add_argument("--target-recall", type=share_of, help="recall of offensive memes to guarantee: 0.9, 90 or 90%%")
    aims.add_argument("--target-precision", type=share_of, help="precision of offensive memes to guarantee")
    command.add_argument(
        "--confidence", type=share_of, default=Aim.confidence, help="confidence that a target is met on new memes"
    )


def _check_study(options: argparse.Namespace) -> None:
    storage = options.storage or sqlite_url(Layout(options.artifacts).studies)
    StudyConfig(storage, "default" if options.study is None else options.study, options.trials, options.seed)


def _aim(options: argparse.Namespace) -> Aim:
    for name in ("recall", "precision"):
        target = getattr(options, f"target_{name}")
        if target is not None:
            return Aim(name, target, options.confidence)
    return Aim(options.objective, confidence=options.confidence)


if __name__ == "__main__":
    run_as_command(main)
