"""Run `tune` and `nested` and print their results, for the command line; imports torch, scikit-learn and Optuna."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import DatasetIndex, DatasetRequest, Layout, content_of, demo_notice
from head.bundle.format import write_part
from head.bundle.settings import Source, split_counts
from head.bundle.versions import Version, in_use, last_version, take_over, use
from head.data.features import Features, prompt_vectors
from head.judge.verdict import metrics_table, verdict
from head.nested import SHIPPED, nested
from head.pipeline import TuneConfig
from head.search.study import finished_trials
from head.tables import runs_table, threshold_words
from head.tuning import SearchRequest, Shipping, read_source, tune_source
from head.version_commands import print_change, print_review


def run_tune(request: DatasetRequest, search: SearchRequest, shipping: Shipping, artifacts: Path) -> None:
    """Tune on the memes of a request, print the results and where the bundle is. Raises what `head.tuning.tune` raises, and
    KeyboardInterrupt, after a line on what is kept."""
    source = read_source(request, search, artifacts)
    notice = _print_encoder(request, source)
    _print_memes(source.features, source.index)
    layout = Layout(artifacts)
    take_over(layout, source.file.stem, lambda line: print(line, file=sys.stderr))
    last = last_version(layout, source.file.stem)
    version = _tuned(source, search, shipping, artifacts)
    _print_results(version, last)
    print(f"bundle      {version.folder}\nin use      {use(layout, version.folder)}{notice}")


def run_seeds(
    request: DatasetRequest, search: SearchRequest, shipping: Shipping, artifacts: Path, seeds: Sequence[int]
) -> None:
    """Tune once for each seed and print the table of the runs; only without a version in use, the first is put into use.
    Raises as `run_tune`."""
    layout, found = Layout(artifacts), []
    for number, seed in enumerate(seeds, 1):
        print(f"seed {seed}: {number} of {len(seeds)}", file=sys.stderr)
        one = replace(search, seed=seed)
        source = read_source(request, one, artifacts)
        found.append(_tuned(source, one, shipping, artifacts))
        print(f"bundle      {found[-1].folder}", flush=True)
    print(f"\n{runs_table(found, 'text')}")
    if in_use(layout) is None:
        print(f"in use      {use(layout, found[0].folder)}")
    else:
        print("The version in use is the same as before; `make use BUNDLE=<name>/<version>` puts another one into use.")


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


def _tuned(source: Source, search: SearchRequest, shipping: Shipping, artifacts: Path) -> Version:
    config = search.config(source, artifacts)
    try:
        return tune_source(source, config, shipping, artifacts)
    except KeyboardInterrupt:
        _print_stopped(config)
        raise


def _print_results(version: Version, last: Version | None) -> None:
    settings = version.config
    metrics, study = settings["tuning_metrics"], settings["study"]
    protocol = settings["protocol"]
    title = "validation" if protocol["name"] == "official" else f"out of fold, {protocol['folds']} folds"
    print(f"\n{metrics_table(title, metrics)}")
    print(f"\nbest of {study['trials']} trials: number {study['best_trial']}, mean AUROC {study['best_value']:.3f}")
    print("ensemble    " + ", ".join(f"{pick['picked']} x {pick['method']}" for pick in study["picks"]))
    print(f"ships       {settings['shipped']}{_why(settings)}")
    print(f"threshold   {threshold_words(settings)}")
    print_change(last, version)
    print_review(version)
    print(
        "These figures are cross-fitted, but the search and the choice of the shipped method used all memes, so they are a little "
        "optimistic. `make report` evaluates on test, once."
    )


def _why(settings: dict[str, Any]) -> str:
    if settings["shipped"] == settings["reference"]:
        return ", the best simple method: the ensemble is no better"
    return ""
