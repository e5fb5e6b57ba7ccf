"""Compare two bundles: their settings and metrics, and the p of the AUROC difference if both have the same memes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache import spec_id
from head.bundle.format import demo_notice_of
from head.judge.delong import auroc_difference
from head.judge.metrics import METRICS
from report import charts, words
from report.curves import both_classes
from report.html import render_template
from report.judged import JudgedBundle

# Settings to compare, in the order of the page; without the results of tuning.
_SETTINGS = ("shipped", "encoder", "spec", "data", "protocol", "aim", "seed", "threshold", "calibration")
_STUDY = ("trials", "sampler", "pruner")
_REVIEW = ("share", "low", "high")
# Significance level of p, that of the 95 % intervals.
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """One metric: a, b: as in metrics.json; difference: B minus A; p: of AUROC only; None if undefined."""

    a: dict[str, Any]
    b: dict[str, Any]
    difference: float | None
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """names: of A and B; differing: {setting: (value in A, in B)}; equal: settings that do not differ; rows: by metric.

    not_comparable: "", or why the two were not evaluated on the same memes; chart: ROC curves as a data URI, or None.
    """

    names: tuple[str, str]
    differing: dict[str, tuple[str, str]]
    equal: list[str]
    rows: dict[str, Row]
    not_comparable: str
    chart: str | None


def compare_bundles(first: JudgedBundle, second: JudgedBundle) -> Comparison:
    """Compare the shipped methods of two bundles. Raises KeyError, TypeError if a JSON file is damaged."""
    differing, equal = _settings(first.config, second.config)
    not_comparable = _not_comparable(first, second)
    p, chart = (None, None) if not_comparable else _paired(first, second)
    rows = {}
    for metric in METRICS:
        a, b = (judged.metrics["methods"][judged.config["shipped"]]["figures"][metric] for judged in (first, second))
        known = not_comparable == "" and a["point"] is not None and b["point"] is not None
        rows[metric] = Row(a, b, b["point"] - a["point"] if known else None, p if known and metric == "auroc" else None)
    return Comparison((_name(first.config), _name(second.config)), differing, equal, rows, not_comparable, chart)


def render_comparison(first: JudgedBundle, second: JudgedBundle, comparison: Comparison) -> str:
    """The comparison as an HTML page."""
    sides = [
        {"letter": letter, "facts": _facts(judged), "name": name, "notice": demo_notice_of(judged.config)}
        for letter, judged, name in zip("AB", (first, second), comparison.names)
    ]
    title = f"{comparison.names[0]} and {comparison.names[1]}"
    return render_template(
        "compare.html", title=title, sides=sides, comparison=comparison, summary=comparison_summary(comparison)
    )


def comparison_table(comparison: Comparison) -> str:
    """The metrics as a table for a terminal."""
    lines = [f"A  {comparison.names[0]}", f"B  {comparison.names[1]}", ""]
    lines.append(f"{'':<20}{'A':<24}{'B':<24}{'B - A':<10}p".rstrip())
    for metric, row in comparison.rows.items():
        change = "" if row.difference is None else f"{row.difference:+.3f}"
        cells = f"{words.estimate(row.a):<24}{words.estimate(row.b):<24}{change:<10}"
        lines.append(f"{words.METRIC_NAMES[metric]:<20}{cells}{words.p_words(row.p).removeprefix('p ')}".rstrip())
    return "\n".join(lines)


def comparison_summary(comparison: Comparison) -> str:
    """The result of the comparison by AUROC in a sentence or two."""
    if comparison.not_comparable:
        return f"{comparison.not_comparable} The metrics are shown side by side and not compared."
    row = comparison.rows["auroc"]
    if row.difference is None or row.p is None:
        return "Both were evaluated on the same memes, where the difference of AUROC is undefined."
    figures = f"B minus A {row.difference:+.3f}, {words.p_words(row.p)}"
    if row.p >= _SIGNIFICANT:
        return f"On the same memes, the AUROCs of A and B do not differ significantly ({figures})."
    better, worse = ("B", "A") if row.difference > 0 else ("A", "B")
    return f"On the same memes, {better} has a higher AUROC than {worse} ({figures})."


def _name(config: dict[str, Any]) -> str:
    return f"{config['name']}, version {config['version']}"


def _facts(judged: JudgedBundle) -> dict[str, str]:
    return words.facts(judged.config, judged.metrics, _part(judged)["label"], [])


def _not_comparable(first: JudgedBundle, second: JudgedBundle) -> str:
    splits = [judged.metrics["split"] for judged in (first, second)]
    if splits[0] != splits[1]:
        here, there = (words.judged_words(judged.config, split) for judged, split in zip((first, second), splits))
        return f"A was evaluated on {here}, B on {there}."
    memes = [sorted(zip(part["ids"], part["label"])) for part in map(_part, (first, second))]
    if memes[0] == memes[1]:
        return ""
    shared = len(set(memes[0]) & set(memes[1]))
    counts = f"{words.memes(len(memes[0]))} and {words.memes(len(memes[1]))}, {shared:,} of them in both"
    return f"A and B were not evaluated on the same memes with the same labels ({counts})."


def _part(judged: JudgedBundle) -> dict[str, Any]:
    return judged.predictions[judged.metrics["split"]]


def _paired(first: JudgedBundle, second: JudgedBundle) -> tuple[float | None, str | None]:
    """The p of the AUROC difference, and the ROC curves of both on the same memes; None if there is one class only."""
    label, copies, scores = np.empty(0), np.empty(0), []
    for judged in (first, second):
        part = _part(judged)
        order = np.argsort(np.array(part["ids"]), kind="stable")
        label = np.array(part["label"])[order]
        copies = np.array(part.get("copies", range(len(order))))[order]  # missing in older bundles
        scores.append(np.array(part["probability"][judged.config["shipped"]])[order])
    if not both_classes(label):
        return None, None
    names = [f"{letter}, {judged.config['shipped']}" for letter, judged in zip("AB", (first, second))]
    return auroc_difference(label, scores[0], scores[1], copies).p, charts.roc_chart(label, dict(zip(names, scores)))


def _settings(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """{setting: (value in A, in B)} of those that differ, and the names of the others."""
    sides = [_flat(config) for config in (first, second)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name, "none"), sides[1].get(name, "none")) for name in names}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return differing, _shared([name for name in names if name not in differing], differing)


def _shared(equal: Iterable[str], differing: Iterable[str]) -> list[str]:
    """Dotted names of equal settings; one whose parts are all equal has its first part only."""
    mixed = {name.partition(".")[0] for name in differing}
    firsts = ((name.partition(".")[0], name) for name in equal)
    return list(dict.fromkeys(name if first in mixed else first for first, name in firsts))


def _flat(config: dict[str, Any]) -> dict[str, str]:
    """{dotted name: value} of all settings."""
    chosen = {name: config[name] for name in _SETTINGS}
    chosen["spec"] = {"id": spec_id(config["spec"]), **config["spec"]}
    if config["review"] is not None:
        chosen["review"] = {name: config["review"][name] for name in _REVIEW}
    chosen["study"] = {name: config["study"][name] for name in _STUDY}
    chosen["versions"] = config["versions"]
    picks = {
        f"part {n} of the ensemble": f"{words.pick_name(pick)}, {words.pick_words(pick)}"
        for n, pick in enumerate(config["study"]["picks"], 1)
    }
    return {**words.flatten(chosen), **picks}
