"""Tune a fusion head over cached vectors and write its model bundle, or write a bundle's report again.

    python -m head tune --data demo/memes --model local-dir:demo/encoder --trials 40
    python -m head report artifacts/bundles/latest

Needs the index and vectors that `make embed` leaves in --artifacts; loads no CLIP. Exit codes: 0 done, 2 something to
put right, said in a sentence, 130 stopped by Ctrl-C.
"""

import argparse
import os
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cache import FEATURES, LONG_TEXTS, DatasetIndex, find_index
from head.bundle import LABELS, load_bundle, save_bundle
from head.data import SPLITS, Features, content_groups, fingerprint, load_features, with_splits
from head.evaluate import HEAD, evaluate_methods, read_estimate, verdict
from head.metrics import METRICS
from head.report import HEADINGS, settings_line, write_report
from head.train import train_head
from head.tune import TuneConfig, Tuned, finished_trials, tune


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m head", description="Tune a fusion head over cached vectors.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    form = argparse.ArgumentDefaultsHelpFormatter
    tuning = commands.add_parser("tune", help="search, evaluate, write a model bundle", formatter_class=form)
    tuning.add_argument(
        "--data", default="demo/memes", help="data folder, as given to the embedding job, or a dataset index"
    )
    tuning.add_argument("--model", default="local-dir:demo/encoder", help="encoder, as given to the embedding job")
    tuning.add_argument("--pretrained", default="", help="its checkpoint, as given to the embedding job")
    tuning.add_argument("--features", choices=FEATURES, default=FEATURES[0], help="as given to the embedding job")
    tuning.add_argument("--long-text", choices=LONG_TEXTS, default=LONG_TEXTS[0], help="as given to the embedding job")
    tuning.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    tuning.add_argument("--trials", type=int, default=40, help="wanted total, earlier runs of the study included")
    tuning.add_argument(
        "--study",
        default=None,
        help="name to continue under; default: made from the data set, its contents and the model",
    )
    tuning.add_argument("--seed", type=int, default=0, help="of splits, weights, search and intervals")
    tuning.set_defaults(run=_tune)
    reporting = commands.add_parser("report", help="write a bundle's report.html again", formatter_class=form)
    reporting.add_argument("bundle", nargs="?", type=Path, default=Path("artifacts/bundles/latest"))
    reporting.set_defaults(run=_report)
    return parser


def _tune(options: argparse.Namespace) -> None:
    index_file = find_index(
        options.artifacts, options.data, options.model, options.pretrained, options.features, options.long_text
    )
    features, index = load_features(index_file, options.artifacts / "vectors")
    features = with_splits(features, content_groups(index), options.seed)
    _print_memes(features, index)
    seen = features.only("train", "validation")
    # Named after the data too, so that fifty new memes begin a study instead of being refused by the old one.
    study = options.study or f"{index_file.stem}-{fingerprint(seen, index.spec)[:8]}"
    config = TuneConfig(options.artifacts / "studies.sqlite3", study, options.trials, options.seed)
    try:
        tuned = tune(seen, index.spec, config)
    except KeyboardInterrupt:
        kept = f"{finished_trials(config)} of {config.trials} trials are kept in {config.storage}"
        print(f"\n{kept}; the same command goes on from there", file=sys.stderr)
        raise
    head = train_head(tuned.head, tuned.train, seen)
    metrics, predictions = evaluate_methods(head, features, options.seed)
    settings = _settings(index_file.stem, features, index, tuned, config, metrics)
    folder = options.artifacts / "bundles" / index_file.stem
    save_bundle(folder, head, settings, predictions)
    report = write_report(folder)
    _point_latest(folder)
    _print_results(tuned, metrics)
    print(f"bundle  {folder}\nreport  {report}")


def _report(options: argparse.Namespace) -> None:
    path = write_report(options.bundle)
    print(f"{verdict(load_bundle(options.bundle).config['metrics'])}\nreport  {path}")


def _settings(
    name: str, features: Features, index: DatasetIndex, tuned: Tuned, config: TuneConfig, metrics: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "train": asdict(tuned.train),
        "encoder": {part: index.source[part] for part in ("model", "pretrained")},
        "spec": index.spec,
        "threshold": metrics["methods"][HEAD]["threshold"],
        "metrics": metrics,
        "data": {
            "source": index.source["data"],
            "fingerprint": fingerprint(features, index.spec),
            "counts": _counts(features),
        },
        "study": {
            "name": config.study,
            "trials": len(tuned.history),
            "best_trial": tuned.trial,
            "best_value": tuned.value,
            "history": tuned.history,
        },
        "seed": config.seed,
    }


def _counts(features: Features) -> dict[str, dict[str, int]]:
    """{split: {label: memes}} of the splits that there are, offensive first."""
    present = [split for split in SPLITS if split in features.split]
    return {
        split: {LABELS[value]: int(np.sum((features.split == split) & (features.label == value))) for value in (1, 0)}
        for split in present
    }


def _point_latest(folder: Path) -> None:
    """Move the relative link `latest` beside `folder` to it; a rename, so that a reader finds the old or the new."""
    staging = folder.with_name(f".latest.{uuid.uuid4().hex}.tmp")
    staging.symlink_to(folder.name)
    os.replace(staging, folder.with_name("latest"))


def _print_memes(features: Features, index: DatasetIndex) -> None:
    for split, part in _counts(features).items():
        shares = ", ".join(f"{count} {label}" for label, count in part.items())
        print(f"{split:<11} {sum(part.values())} memes: {shares}")
    skipped = sum(1 for reason in index.skipped if reason)
    if len(index) > len(features):
        unlabelled = len(index) - len(features) - skipped
        print(f"left out    {skipped} without vectors, {unlabelled} without a label")


def _print_results(tuned: Tuned, metrics: dict[str, Any]) -> None:
    names = metrics["methods"]
    print(f"\n{metrics['split']:<33}" + "".join(f"{HEADINGS[metric]:<22}" for metric in METRICS).rstrip())
    for name, figures in names.items():
        cells = "".join(f"{read_estimate(figures[metric])!s:<22}" for metric in METRICS)
        print(f"{name:<33}{cells}".rstrip())
    best = {**asdict(tuned.head), **asdict(tuned.train)}
    print(f"\nbest of {len(tuned.history)} trials, number {tuned.trial}, validation AUROC {tuned.value:.3f}")
    print(f"  {settings_line(best)}")
    print(f"\n{verdict(metrics)}")


if __name__ == "__main__":
    sys.exit(main())
