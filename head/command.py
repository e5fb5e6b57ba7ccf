"""Run `tune` and `nested` and print their results, for the command line; imports torch, scikit-learn and Optuna."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import DatasetIndex, DatasetRequest, Layout, content_of, demo_notice
from head.bundle.format import read_config, write_part
from head.bundle.settings import Source, split_counts
from head.data.features import Features, prompt_vectors
from head.judge.metrics import read_estimate
from head.judge.threshold import aim_words
from head.judge.verdict import metrics_table, verdict
from head.nested import SHIPPED, nested
from head.pipeline import TuneConfig
from head.search.study import finished_trials
from head.tuning import SearchRequest, Shipping, read_source, tune_source


def run_tune(request: DatasetRequest, search: SearchRequest, shipping: Shipping, artifacts: Path) -> None:
    """Tune on the memes of a request, print the results and where the bundle is. Raises what `head.tuning.tune` raises, and
    KeyboardInterrupt, after a line on what is kept."""
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


def run_nested(request: DatasetRequest, search: SearchRequest, artifacts: Path) -> None:
    """Cross-validate the tuning and print the results. Raises as `run_tune`, and ValueError for another protocol than kfold."""
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


def device_of(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda". Raises ValueError where it is absent."""
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
