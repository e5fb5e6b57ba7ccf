"""Bundles and runs as tables, for a terminal, Markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from head.bundle.versions import Version
from head.judge.metrics import read_estimate
from head.judge.threshold import aim_words

# {format: what tabulate calls it}; csv is written by its own module.
FORMATS = {"text": "simple", "markdown": "github", "latex": "latex_booktabs", "csv": ""}
_BUNDLES = (
    "",
    "bundle",
    "date",
    "data",
    "encoder",
    "memes",
    "ships",
    "threshold",
    "for",
    "flags",
    "judged on",
    "AUROC",
    "F1 offensive",
)
_METRICS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "f1_offensive": "F1 offensive",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
}


def bundles_table(found: Sequence[Version], used: Path | None, form: str) -> str:
    """A row per version, `*` before that in use; figures are of test where the report has evaluated it, else of tuning.

    form: one of FORMATS.
    """
    return _table(_BUNDLES, [_bundle_row(version, version.folder == used) for version in found], form)


def runs_table(found: Sequence[Version], form: str) -> str:
    """A row per training, and the mean and standard deviation of those that differ in their seed alone; form: one of FORMATS.

    Of the versions of one training, which differ in their threshold, one counts: the newest, of those judged on test if any.
    """
    rows, trained = [], dict[str, Version]()
    for version in sorted(found, key=lambda one: one.metrics["split"] == "test"):
        trained[version.config["weights_sha256"]] = version
    for group in _by_seed(version for version in found if version in trained.values()):
        rows += [[version.title, str(version.config["seed"]), *_run_words(version)] for version in group]
        if len(group) > 1:
            rows.append([group[0].config["name"], f"mean of {len(group)} seeds", *_spread(group)])
    return _table(("bundle", "seed", "ships", "judged on", *_METRICS.values()), rows, form)


def threshold_words(config: dict[str, Any]) -> str:
    """A bundle's threshold, its aim, and what it flags, which older bundles do not say, in words."""
    flags = f"; {_flags(config)} of the memes are called offensive" if "flagged" in config else ""
    return f"{config['threshold']:.3f}, for {aim_words(config['aim'])}{flags}"


def review_words(config: dict[str, Any]) -> str:
    """A bundle's review band in words, "" for none."""
    review = config["review"]
    if not review:
        return ""
    return (
        f"probabilities from {review['low']:.3f} to {review['high']:.3f} are left to human review; {review['coverage']:.0%} are "
        f"answered, with an error rate of {read_estimate(review['error'])}"
    )


def _bundle_row(version: Version, used: bool) -> list[str]:
    config, metrics = version.config, version.metrics
    figures = metrics["methods"][config["shipped"]]["figures"]
    memes = sum(sum(counts.values()) for counts in config["data"]["counts"].values())
    words = [
        config["created"][:16].replace("T", " "),
        Path(config["data"]["source"]).name,
        " ".join(config["encoder"].values()).strip(),
    ]
    words += [str(memes), config["shipped"], f"{config['threshold']:.3f}", aim_words(config["aim"]), _flags(config)]
    shown = [str(read_estimate(figures[name])) for name in ("auroc", "f1_offensive")]
    return ["*" * used, version.title, *words, metrics["split"], *shown]


def _flags(config: dict[str, Any]) -> str:
    return f"{config['flagged']:.0%}" if "flagged" in config else ""


def _by_seed(found: Iterable[Version]) -> list[list[Version]]:
    """Groups of versions that differ in their seed alone, the newest of each seed."""
    groups: dict[tuple[Any, ...], dict[int, Version]] = {}
    for version in found:
        config = version.config
        trials = (
            config["study"]["trials"],
            str(config["protocol"]),
            str(config.get("finetuned", {}).get("learning_rate")),
        )
        key = (config["name"], config["data"]["fingerprint"], version.metrics["split"], *trials)
        groups.setdefault(key, {})[config["seed"]] = version
    return [[group[seed] for seed in sorted(group)] for group in groups.values()]


def _run_words(version: Version) -> list[str]:
    metrics = version.metrics
    figures = metrics["methods"][version.config["shipped"]]["figures"]
    return [version.config["shipped"], metrics["split"], *(str(read_estimate(figures[name])) for name in _METRICS)]


def _spread(group: Sequence[Version]) -> list[str]:
    figures = [version.metrics["methods"][version.config["shipped"]]["figures"] for version in group]
    cells = []
    for name in _METRICS:
        points = [one[name]["point"] for one in figures if one[name]["point"] is not None]
        cells.append(f"{np.mean(points):.3f} +- {np.std(points, ddof=1):.3f}" if len(points) > 1 else "")
    return ["", group[0].metrics["split"], *cells]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> str:
    if form != "csv":
        return tabulate(rows, headings, FORMATS[form], disable_numparse=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue().rstrip("\n")
