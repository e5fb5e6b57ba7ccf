"""Run the commands that work on tuned bundles and print their results; imports torch and scikit-learn."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache import DatasetRequest, Layout, find_bundle, find_index, read_index, write_table
from head.bundle.format import load_bundle, read_config
from head.bundle.settings import review_after, review_share
from head.bundle.versions import Version, flat_names, in_use, prune, take_over, use, versions
from head.judge.threshold import Aim, aim_of, aim_words
from head.rethreshold import rethreshold
from head.scoring import score_index
from head.tables import bundles_table, review_words, runs_table, threshold_words


def run_bundles(artifacts: Path, form: str) -> None:
    """Print every version, and which of them is in use. Raises OSError."""
    print(bundles_table(_versions(artifacts), in_use(Layout(artifacts)), form))


def run_runs(artifacts: Path, form: str) -> None:
    """Print every training, with mean and deviation over seeds. Raises OSError."""
    print(runs_table(_versions(artifacts), form))


def run_use(bundle: Path, artifacts: Path) -> None:
    """Put a version into use. Raises UnusableBundle for a damaged one, ValueError for one elsewhere, OSError."""
    layout = Layout(artifacts)
    _take_over_all(layout)
    folder = find_bundle(bundle, artifacts)
    config = read_config(folder)
    print(f"in use      {use(layout, folder)}")
    print(f"threshold   {threshold_words(config)}")


def run_prune(artifacts: Path, keep: int) -> None:
    """Remove old versions and print what was removed. Raises ValueError for a number below 1, OSError."""
    layout = Layout(artifacts)
    _take_over_all(layout)
    removed = prune(layout, keep)
    for folder in removed:
        print(f"removed     {folder}")
    print(f"{len(removed)} versions removed; the newest {keep} of each name are kept, and those in use")


def run_threshold(bundle: Path, artifacts: Path, aim: Aim | None, review: float | None) -> None:
    """A new version of a bundle with another threshold or review band, put into use. Raises what `rethreshold` raises."""
    layout = Layout(artifacts)
    _take_over_all(layout)
    folder = find_bundle(bundle, artifacts)
    before = read_config(folder)
    version = rethreshold(folder, artifacts, aim or aim_of(before), review_after(review, before))
    print(f"threshold   {threshold_words(version.config)}")
    print(f"before      {threshold_words(before)}")
    print_review(version)
    print(f"bundle      {version.folder}")
    print(f"in use      {use(layout, version.folder)}")


def run_score(request: DatasetRequest, folder: Path, artifacts: Path, out: Path | None) -> None:
    """Write the probability of every cached meme of a data set to `out`. Raises what `score_index` and `write_table` raise.

    Without a model in the request, the index is that of the bundle's encoder.
    """
    bundle = load_bundle(folder)
    config = bundle.config
    if not request.model:
        features = config["spec"].get("feature", request.features)
        finetuned = "finetuned" in config
        request = replace(request, **config["encoder"], features=features, finetuned=finetuned)
    path = find_index(artifacts, request)
    index = read_index(path)
    columns = score_index(bundle, index, Layout(artifacts).vectors)
    out = out or Layout(artifacts).scores(path.stem, folder.name)
    write_table(out, columns)
    decisions, counts = np.unique(columns["decision"], return_counts=True)
    print(f"scored      {len(columns['id'])} memes, {len(index) - len(columns['id'])} without vectors left out")
    print(f"answers     {', '.join(f'{count} {decision}' for decision, count in zip(decisions, counts))}")
    print(f"table       {out}")


def print_review(version: Version) -> None:
    """Print the review band, if the version has one."""
    if words := review_words(version.config):
        print(f"review      {words}")


def print_change(last: Version | None, version: Version) -> None:
    """Print which aim was kept from the last version, or that it changes."""
    if last is None:
        return
    old, new = (aim_words(one.config["aim"]) for one in (last, version))
    if old != new:
        print(f"aim         changes from {old} ({last.title}) to {new}")
    elif aim_of(last.config) != Aim():
        print(f"aim         {new}, as in {last.title}")
    before, now = (review_share(one.config) for one in (last, version))
    if before != now:
        print(f"review      changes from {before or 'none'} ({last.title}) to {now or 'none'}")


def _versions(artifacts: Path) -> list[Version]:
    layout = Layout(artifacts)
    _take_over_all(layout)
    found, unusable = versions(layout)
    for why in unusable:
        print(why, file=sys.stderr)
    return found


def _take_over_all(layout: Layout) -> None:
    for name in flat_names(layout):
        take_over(layout, name, lambda line: print(line, file=sys.stderr))
