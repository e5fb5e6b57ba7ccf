"""Two bundles side by side: what was set otherwise, what each reached, and which is better where that can be told.

Only bundles that were judged on the same memes are compared by p. `python -m report compare A B` uses it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache import spec_id
from head.judge.delong import auroc_difference
from head.judge.metrics import METRICS
from report import charts, words
from report.curves import both_classes
from report.html import fill
from report.judged import JudgedBundle

# What was set, in the order of the page. Not here: what tuning found out, which the figures speak of.
_SETTINGS = ("shipped", "encoder", "spec", "data", "protocol", "aim", "seed", "threshold", "calibration")
_STUDY = ("trials", "sampler", "pruner")
_REVIEW = ("share", "low", "high")
# The p below which a difference counts as one: the level of the 95 % intervals beside it.
_TOLD_APART = 0.05


@dataclass(frozen=True)
class Row:
    """One metric: both figures as in metrics.json, B minus A, and of AUROC its p, each None where that is undefined."""

    a: dict[str, Any]
    b: dict[str, Any]
    difference: float | None
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """names: of A and B; differing: {setting: its value in A, in B}; equal: names of those that do not.

    rows: by metric; unlike: "" or why the two were not judged on the same memes; chart: ROC curves of both as a data
    URI, or None.
    """

    names: tuple[str, str]
    differing: dict[str, tuple[str, str]]
    equal: list[str]
    rows: dict[str, Row]
    unlike: str
    chart: str | None


def compare_bundles(first: JudgedBundle, second: JudgedBundle) -> Comparison:
    """Compare the methods that two bundles ship. Raises KeyError, TypeError where the values are not a bundle's."""
    differing, equal = _settings(first.config, second.config)
    unlike = _unlike(first, second)
    p, chart = (None, None) if unlike else _paired(first, second)
    rows = {}
    for metric in METRICS:
        a, b = (judged.metrics["methods"][judged.config["shipped"]]["figures"][metric] for judged in (first, second))
        known = not unlike and a["point"] is not None and b["point"] is not None
        rows[metric] = Row(a, b, b["point"] - a["point"] if known else None, p if known and metric == "auroc" else None)
    return Comparison((_name(first.config), _name(second.config)), differing, equal, rows, unlike, chart)


def render_comparison(first: JudgedBundle, second: JudgedBundle, comparison: Comparison) -> str:
    """The page as HTML."""
    sides = [
        {"letter": letter, "facts": _facts(judged), "name": name}
        for letter, judged, name in zip("AB", (first, second), comparison.names)
    ]
    title = f"{comparison.names[0]} beside {comparison.names[1]}"
    return fill("compare.html", title=title, sides=sides, comparison=comparison, said=said(comparison))


def comparison_table(comparison: Comparison) -> str:
    """The figures for a terminal."""
    lines = [f"A  {comparison.names[0]}", f"B  {comparison.names[1]}", ""]
    lines.append(f"{'':<20}{'A':<24}{'B':<24}{'B - A':<10}p".rstrip())
    for metric, row in comparison.rows.items():
        change = "" if row.difference is None else f"{row.difference:+.3f}"
        cells = f"{words.estimate(row.a):<24}{words.estimate(row.b):<24}{change:<10}"
        lines.append(f"{words.METRIC_NAMES[metric]:<20}{cells}{words.p_words(row.p).removeprefix('p ')}".rstrip())
    return "\n".join(lines)


def said(comparison: Comparison) -> str:
    """What AUROC says of the two, in a sentence or two."""
    if comparison.unlike:
        return f"{comparison.unlike} The figures stand side by side and are not compared."
    row = comparison.rows["auroc"]
    if row.difference is None or row.p is None:
        return "Both were judged on the same memes; the difference of AUROC is undefined there."
    figures = f"B minus A {row.difference:+.3f}, {words.p_words(row.p)}"
    if row.p >= _TOLD_APART:
        return f"On the same memes, the AUROCs of A and B cannot be told apart ({figures})."
    better, worse = ("B", "A") if row.difference > 0 else ("A", "B")
    return f"On the same memes, {better} has a higher AUROC than {worse} ({figures})."


def _name(config: dict[str, Any]) -> str:
    return f"{config['name']}, version {config['version']}"


def _facts(judged: JudgedBundle) -> dict[str, str]:
    return words.facts(judged.config, judged.metrics, _part(judged)["label"], [])


def _unlike(first: JudgedBundle, second: JudgedBundle) -> str:
    splits = [judged.metrics["split"] for judged in (first, second)]
    if splits[0] != splits[1]:
        here, there = (words.judged_words(judged.config, split) for judged, split in zip((first, second), splits))
        return f"A was judged on {here}, B on {there}."
    memes = [sorted(zip(part["ids"], part["label"])) for part in map(_part, (first, second))]
    if memes[0] == memes[1]:
        return ""
    shared = len(set(memes[0]) & set(memes[1]))
    counts = f"{words.memes(len(memes[0]))} and {words.memes(len(memes[1]))}, {shared:,} of them in both"
    return f"A and B were not judged on the same memes with the same labels ({counts})."


def _part(judged: JudgedBundle) -> dict[str, Any]:
    return judged.predictions[judged.metrics["split"]]


def _paired(first: JudgedBundle, second: JudgedBundle) -> tuple[float | None, str | None]:
    """The p of the difference of AUROC, and ROC curves of both, over the same memes in the order of their ids; None with
    memes of one class."""
    label, copies, scores = np.empty(0), np.empty(0), []
    for judged in (first, second):
        part = _part(judged)
        order = np.argsort(np.array(part["ids"]), kind="stable")
        label = np.array(part["label"])[order]
        copies = np.array(part.get("copies", range(len(order))))[order]  # older bundles do not say
        scores.append(np.array(part["probability"][judged.config["shipped"]])[order])
    if not both_classes(label):
        return None, None
    names = [f"{letter}, {judged.config['shipped']}" for letter, judged in zip("AB", (first, second))]
    return auroc_difference(label, scores[0], scores[1], copies).p, charts.roc_chart(label, dict(zip(names, scores)))


def _settings(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Settings that differ, {name: (of A, of B)}, and the names of those that do not."""
    sides = [_flat(config) for config in (first, second)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name, "none"), sides[1].get(name, "none")) for name in names}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return differing, _shared([name for name in names if name not in differing], differing)


def _shared(equal: Iterable[str], differing: Iterable[str]) -> list[str]:
    """Names that are equal; what is so throughout goes by the first word of its dotted names alone."""
    mixed = {name.partition(".")[0] for name in differing}
    firsts = ((name.partition(".")[0], name) for name in equal)
    return list(dict.fromkeys(name if first in mixed else first for first, name in firsts))


def _flat(config: dict[str, Any]) -> dict[str, str]:
    """{dotted name: value in words} of everything that was set."""
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
    return {**words.leaves(chosen), **picks}
