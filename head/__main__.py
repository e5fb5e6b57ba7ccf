"""Tune a fusion head over cached vectors, cross-validate the tuning, and manage the versions of model bundles.

    python -m head tune --data demo/memes --model local-dir:demo/encoder --trials 200
    python -m head nested --data demo/memes --model local-dir:demo/encoder
    python -m head bundles | runs                       tables of versions, and of trainings over seeds
    python -m head threshold --target-recall 0.9        a new version with another threshold, in seconds
    python -m head score --data demo/memes --out scores.parquet
    python -m head use NAME/VERSION                     which version is served
    python -m head prune --keep 5                       remove old versions

`tune` and `nested` need the index and vectors that `make embed` writes to --artifacts; they load no CLIP and read no test memes.
Exit codes: 0 done; 2 refused, with the remedy in a sentence; 130 stopped by Ctrl-C, and the same command resumes.
"""

import argparse
import re
from pathlib import Path

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache import Layout, cores, find_bundle, find_index, limit_threads
from head.data.folds import PROTOCOLS, Protocol
from head.judge.shares import share_of
from head.judge.threshold import OBJECTIVES, Aim
from head.request import data_options, request_of
from head.search.config import StudyConfig, sqlite_url

_FORMATS = ("text", "markdown", "csv", "latex")


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command in ("tune", "nested"):
        _tune(options)
    else:
        _manage(options)
    return 0


def _tune(options: argparse.Namespace) -> None:
    request, protocol = request_of(options), Protocol(options.protocol, options.folds, options.repeats)
    aim = _aim(options)
    _check_study(options)
    announce(
        options.command, data=request.data, index=find_index(options.artifacts, request), artifacts=options.artifacts
    )
    # imported here: it takes seconds, and the arguments are judged before
    from head.command import device_of, run_nested, run_seeds, run_tune
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
    if options.command == "nested":
        run_nested(request, search, options.artifacts)
    elif options.seeds:
        run_seeds(request, search, Shipping(options.ship, options.review), options.artifacts, options.seeds)
    else:
        run_tune(request, search, Shipping(options.ship, options.review), options.artifacts)


def _manage(options: argparse.Namespace) -> None:
    aim = _aim(options) if options.command == "threshold" else None
    bundle = find_bundle(options.bundle, options.artifacts) if "bundle" in options else None
    announce(options.command, bundle=bundle, artifacts=options.artifacts)
    from head import version_commands as commands  # as above

    if options.command == "bundles":
        commands.run_bundles(options.artifacts, options.format)
    elif options.command == "runs":
        commands.run_runs(options.artifacts, options.format)
    elif options.command == "use":
        commands.run_use(options.bundle, options.artifacts)
    elif options.command == "score":
        assert bundle is not None
        commands.run_score(request_of(options), bundle, options.artifacts, options.out)
    elif options.command == "prune":
        commands.run_prune(options.artifacts, options.keep)
    else:
        commands.run_threshold(options.bundle, options.artifacts, aim, options.review)


def _parser() -> Parser:
    parser = Parser(prog="python -m head", description="Tune fusion heads over cached vectors; manage model bundles.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    form = argparse.ArgumentDefaultsHelpFormatter
    for name, purpose in (
        ("tune", "search, choose an ensemble, write a new version of the model bundle"),
        ("nested", "nested cross-validation: an unbiased estimate of what `tune` does"),
    ):
        command = commands.add_parser(name, help=purpose, formatter_class=form, parents=[data_options()])
        _add_search(command, several=name == "tune")
        _add_aim(command)
        if name == "tune":
            command.add_argument(
                "--ship",
                default="best",
                help="method to serve: ensemble, regression or a candidate's name; best: the strongest simple method, "
                "unless the ensemble is better",
            )
            _add_review(command)
    scoring = commands.add_parser(
        "score",
        help="probabilities of every cached meme as CSV or Parquet",
        formatter_class=form,
        parents=[data_options()],
    )
    _add_bundle(scoring, "bundle to score with")
    scoring.add_argument("--out", type=Path, help="file to write, .csv or .parquet; default: in --artifacts")
    for name, purpose in (
        ("bundles", "all versions of all model bundles, as a table"),
        ("runs", "all trainings, with mean and deviation over seeds"),
        ("use", "put a version into use: it is served by default"),
        ("prune", "remove old versions, never those in use"),
        ("threshold", "a new version with another threshold or review band, without training"),
    ):
        command = commands.add_parser(name, help=purpose, formatter_class=form)
        command.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of results")
        if name in ("bundles", "runs"):
            command.add_argument("--format", choices=_FORMATS, default=_FORMATS[0], help="of the table")
        elif name == "prune":
            command.add_argument("--keep", type=int, default=5, help="newest versions of each name to keep")
        elif name == "use":
            command.add_argument("bundle", type=Path, help="<name>/<version> as `bundles` shows it, or its folder")
        else:
            _add_bundle(command, "version to start from")
            _add_aim(command)
            _add_review(command)
    return parser


def _add_bundle(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("--bundle", type=Path, default=Path("artifacts/bundles/latest"), help=purpose)


def _add_search(command: argparse.ArgumentParser, several: bool) -> None:
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
    seeds = command.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="of folds, weights, search and intervals")
    if several:
        seeds.add_argument("--seeds", type=_seeds, help="tune once for each, as 1-5 or 1,3,7, and put none into use")


def _add_aim(command: argparse.ArgumentParser) -> None:
    aims = command.add_mutually_exclusive_group()
    plain = [objective for objective in OBJECTIVES if objective not in ("precision", "recall")]
    aims.add_argument(
        "--objective",
        choices=plain,
        help=f"metric that the threshold maximises (default without any aim: the last version's, else {plain[0]})",
    )
    aims.add_argument("--target-recall", type=share_of, help="recall of offensive memes to guarantee: 0.9, 90 or 90%%")
    aims.add_argument("--target-precision", type=share_of, help="precision of offensive memes to guarantee")
    command.add_argument(
        "--confidence", type=share_of, help=f"confidence that a target is met on new memes (default: {Aim.confidence})"
    )


def _add_review(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--review",
        type=share_of,
        default=None,
        help="share of memes nearest the threshold left to human review: 0.2, 20 or 20%%; 0: none; default: the last version's",
    )


def _seeds(text: str) -> list[int]:
    """1-5 or 1,3,7 -> the seeds. Raises ArgumentTypeError for anything else, and for more than 100."""
    parts = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip()) for part in text.split(",")]
    seeds = [
        seed
        for part in parts
        if part
        for seed in range(int(part[1]), min(int(part[2] or part[1]), int(part[1]) + 100) + 1)
    ]
    if not all(parts) or not 1 <= len(set(seeds)) == len(seeds) <= 100:
        raise argparse.ArgumentTypeError(f"expected up to 100 seeds such as 1-5 or 1,3,7, got {text!r}")
    return seeds


def _check_study(options: argparse.Namespace) -> None:
    storage = options.storage or sqlite_url(Layout(options.artifacts).studies)
    StudyConfig(storage, "default" if options.study is None else options.study, options.trials, options.seed)


def _aim(options: argparse.Namespace) -> Aim | None:
    """None where none was given."""
    confidence = Aim.confidence if options.confidence is None else options.confidence
    for name in ("recall", "precision"):
        target = getattr(options, f"target_{name}")
        if target is not None:
            return Aim(name, target, confidence)
    if options.confidence is not None:
        raise ValueError("--confidence: it is that of a target; give --target-recall or --target-precision, too")
    return Aim(options.objective) if options.objective else None


if __name__ == "__main__":
    run_as_command(main)
