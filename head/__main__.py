"""Tune a fusion head over cached vectors and write its model bundle, or cross-validate the tuning procedure.

    python -m head tune --data demo/memes --model local-dir:demo/encoder --trials 200
    python -m head nested --data demo/memes --model local-dir:demo/encoder

Needs the index and vectors that `make embed` writes to --artifacts; loads no CLIP and reads no test memes. Exit codes: 0
done; 2 refused, with the remedy in a sentence; 130 stopped by Ctrl-C, and the same command resumes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from head.request import data_options, refused, request_of

if __name__ == "__main__" and (early := refused(sys.argv[1:])):
    sys.exit(early)  # before the seconds of importing torch

import numpy as np
import torch

from cache import (
    DatasetIndex,
    DatasetRequest,
    Layout,
    content_of,
    cores,
    demo_notice,
    limit_threads,
    refuse,
)
from head.bundle.format import read_config, write_part
from head.bundle.settings import Source, split_counts
from head.data.features import Features, prompt_vectors
from head.data.folds import PROTOCOLS, Protocol
from head.judge.metrics import read_estimate
from head.judge.shares import share_of
from head.judge.threshold import OBJECTIVES, Aim, aim_words
from head.judge.verdict import metrics_table, verdict
from head.nested import SHIPPED, nested
from head.pipeline import TuneConfig
from head.search.study import ROUND, StudyConfig, finished_trials
from head.tuning import BEST, SHIP, SearchRequest, Shipping, read_source, tune_source


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    limit_threads()
    try:
        if options.command == "tune":
            _tune(request_of(options), _search(options), Shipping(options.ship, options.review), options.artifacts)
        else:
            _nested(request_of(options), _search(options), options.artifacts)
    except (ValueError, OSError) as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m head", description="Tune a fusion head over cached vectors.")
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
                choices=(BEST, *SHIP),
                default=BEST,
                help="method to serve; best: the strongest simple method, unless the ensemble is better",
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


def _tune(request: DatasetRequest, search: SearchRequest, shipping: Shipping, artifacts: Path) -> None:
    source = read_source(request, search, artifacts)
    notice = _print_encoder(request, source)
    _print_memes(source.features, source.index)
    config = search.config(source, artifacts)
    try:
        folder = tune_source(source, config, shipping, artifacts)
    except KeyboardInterrupt:
        _print_stopped(config)
        raise
    _print_results(read_config(folder))
    print(f"bundle  {folder}{notice}")


def _nested(request: DatasetRequest, search: SearchRequest, artifacts: Path) -> None:
    if search.protocol.name != "kfold":
        raise ValueError("nested cross-validation makes its own folds; leave --protocol out")
    source = read_source(request, search, artifacts)
    notice = _print_encoder(request, source)
    layout, config = Layout(artifacts), search.config(source, artifacts)
    prompts = prompt_vectors(source.index, layout.vectors)
    metrics = nested(source.features, source.index.spec, prompts, config, lambda line: print(line, file=sys.stderr))
    folder = layout.nested(source.file.stem)
    write_part(folder, "nested.json", {**metrics, "fingerprint": source.fingerprint})
    print(f"\n{metrics_table('nested cross-validation', metrics)}")
    print(f"\n{verdict({'shipped': SHIPPED}, metrics)}\nnested  {folder / 'nested.json'}{notice}")


def _search(options: argparse.Namespace) -> SearchRequest:
    return SearchRequest(
        options.trials,
        options.seed,
        options.study,
        options.storage,
        Protocol(options.protocol, options.folds, options.repeats),
        _aim(options),
        options.jobs or min(ROUND, cores()),
        _device(options.device),
    )


def _aim(options: argparse.Namespace) -> Aim:
    for name in ("recall", "precision"):
        target = getattr(options, f"target_{name}")
        if target is not None:
            return Aim(name, target, options.confidence)
    return Aim(options.objective, confidence=options.confidence)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _print_stopped(config: TuneConfig) -> None:
    finished = f"{finished_trials(config.study)} of {config.study.trials} trials are kept in {config.study.place}"
    print(f"\n{finished}; the same command resumes from there", file=sys.stderr)


def _print_encoder(request: DatasetRequest, source: Source) -> str:
    """Print the encoder if it was not named, and the notice about the demo's; returns that, to be printed again at the end."""
    index = source.index
    if not request.model and source.file != Path(request.data):
        model = f"{index.source['model']} {index.source['pretrained']}".rstrip()
        print(f"model       {model}: the only one that {request.data} was embedded with, in {source.file}")
    notice = demo_notice(index.spec, content_of(index.image_keys))
    if notice:
        print(f"{notice}\n")
    return notice and f"\n\n{notice}"


def _print_memes(features: Features, index: DatasetIndex) -> None:
    for split, counts in split_counts(features).items():
        shares = ", ".join(f"{count} {label}" for label, count in counts.items())
        print(f"{split:<11} {sum(counts.values())} memes: {shares}")
    if not {"validation", "test"} & set(index.splits):
        held_out = int(np.sum(np.isin(index.labels, (0, 1)))) - len(features) - sum(map(bool, index.skipped))
        print(f"held out    {held_out} memes for test, by their content; only `make report` reads them")
    copies = len(features) - len(np.unique(features.copies))
    print(f"copies      {copies} memes are near-duplicates of others and share their fold")
    skipped, unlabelled = sum(map(bool, index.skipped)), sum(label not in (0, 1) for label in index.labels)
    if skipped or unlabelled:
        print(f"left out    {skipped} without vectors, {unlabelled} without a label")


def _print_results(settings: dict[str, Any]) -> None:
    metrics, study = settings["tuning_metrics"], settings["study"]
    protocol = settings["protocol"]
    title = "validation" if protocol["name"] == "official" else f"out of fold, {protocol['folds']} folds"
    print(f"\n{metrics_table(title, metrics)}")
    print(f"\nbest of {study['trials']} trials: number {study['best_trial']}, mean AUROC {study['best_value']:.3f}")
    print("ensemble    " + ", ".join(f"{pick['picked']} x {pick['method']}" for pick in study["picks"]))
    print(f"ships       {settings['shipped']}{_why(settings)}")
    print(
        f"threshold   {settings['threshold']:.3f}, for {aim_words(settings['aim'])}; {settings['flagged']:.0%} of the memes are "
        "called offensive"
    )
    if settings["review"]:
        _print_review(settings["review"])
    print(
        "These figures are cross-fitted, but the search and the choice of the shipped method used all memes, so they are a little "
        "optimistic. `make report` evaluates on test, once."
    )


def _why(settings: dict[str, Any]) -> str:
    if settings["shipped"] == settings["reference"]:
        return ", the best simple method: the ensemble is no better"
    return ""


def _print_review(review: dict[str, Any]) -> None:
    error = read_estimate(review["error"])
    print(
        f"review      probabilities from {review['low']:.3f} to {review['high']:.3f} are left to human review; "
        f"{review['coverage']:.0%} are answered, with an error rate of {error}"
    )


if __name__ == "__main__":
    sys.exit(main())
