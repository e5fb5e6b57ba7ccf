"""The report's plots, as SVG data URIs. Works on arrays and trials; knows nothing of bundles or HTML.

Draws on `Figure` objects, without pyplot, so that no global state is touched, and to the same bytes every time.
`report.page` and `report.compare` use it.
"""

import base64
import io
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.typing import RcKeyType

from head.judge.curves import precision_recall, roc, threshold_figures
from report.curves import reliability

Given = ParamSpec("Given")

# Okabe and Ito's palette, told apart with any colour vision; the shipped method comes first. Dashes help in black and
# white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#666666", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)), (0, (3, 1)))
_QUIET = "#999999"
_PALE = "#cccccc"
# Names come from a file: a `$` in one is no formula. A salt of our own, or every run would name its paths anew.
_SETTINGS: dict[RcKeyType, Any] = {"svg.hashsalt": "report", "text.parse_math": False, "font.size": 10}
# A parameter was searched on a logarithmic scale, or might have been, if its largest value is more than so many times
# its smallest and its median: of equally spread ones the median is half the largest.
_WIDE_SPAN, _FAR_FROM_MIDDLE = 50, 4
# Categories' points are spread sideways by this much at most, or they would lie on each other; the golden ratio's
# multiples fill the width evenly.
_SPREAD, _GOLDEN = 0.5, 0.618034
# Whole numbers of which there are no more were given as a list to choose from.
_MOST_CATEGORIES = 6
# Characters of a method's or a parameter's name that leave room for the plot; no name of ours is longer.
_LONGEST = 40
# Characters of a category's name that fit under a small plot.
_NAME = 12
# Characters of all names together that fit there side by side.
_LEVEL_NAMES = 20


def _as_svg(draw: Callable[Given, Figure]) -> Callable[Given, str]:
    """The figure that `draw` returns, as a data URI."""

    @wraps(draw)
    def drawn(*arguments: Given.args, **named: Given.kwargs) -> str:
        data = io.BytesIO()
        with matplotlib.rc_context(_SETTINGS):
            draw(*arguments, **named).savefig(data, format="svg", metadata={"Date": None, "Creator": None})
        return f"data:image/svg+xml;base64,{base64.b64encode(data.getvalue()).decode()}"

    return drawn


@_as_svg
def roc_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """ROC curves of several methods on (N,) memes of both classes, the first one in front."""
    figure, axes = _square("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=_PALE, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        axes.plot(*roc(label, probability), label=name[:_LONGEST], **_line(number))
    figure.legend(**_below(len(probabilities)))
    return figure


@_as_svg
def precision_recall_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """Precision against recall of several methods on (N,) memes of both classes, the first one in front."""
    figure, axes = _square("recall", "precision")
    axes.axhline(label.mean(), color=_PALE, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        axes.step(*precision_recall(label, probability), where="pre", label=name[:_LONGEST], **_line(number))
    figure.legend(**_below(len(probabilities)))
    return figure


@_as_svg
def reliability_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """Share of offensive memes against probability, of several methods on (N,) memes, in bins of equal numbers, the first in
    front and with 95 % intervals."""
    figure, axes = _square("probability given", "share that is offensive")
    axes.plot([0, 1], [0, 1], color=_PALE, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        given, share, (low, high) = reliability(label, probability)
        axes.plot(given, share, label=name[:_LONGEST], marker="o", markersize=3, **_line(number))
        if number == 0:
            bars = np.maximum(np.stack((share - low, high - share)), 0)  # rounding can reach below 0
            axes.errorbar(given, share, bars, color=_COLOURS[0], linestyle="none", elinewidth=0.8, capsize=2)
    figure.legend(**_below(len(probabilities)))
    return figure


@_as_svg
def cost_chart(thresholds: np.ndarray, curve: np.ndarray, costs: dict[str, float], threshold: float) -> Figure:
    """What 1,000 memes cost against the threshold, (T,) each; costs: as `report.costs.costs` gives them."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.step(thresholds, curve, where="pre", color=_COLOURS[0], linewidth=1.8, label="this model")
    for name, style in (("none", ":"), ("all", "--")):
        axes.axhline(costs[name], color=_PALE, linestyle=style, linewidth=1.2, label=f"{name} flagged")
    axes.axvline(threshold, color="#000000", linewidth=1, label=f"chosen, {threshold:.3f}")
    axes.plot(costs["at"], costs["cheapest"], "o", color=_COLOURS[1], label=f"cheapest, {costs['at']:.3f}")
    axes.set(xlabel="threshold", ylabel="cost of 1,000 memes", xlim=(-0.02, 1.02))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _plain(axes)
    return figure


@_as_svg
def learning_chart(curve: list[dict[str, Any]]) -> Figure:
    """AUROC against the memes learnt from, with standard errors."""
    figure = Figure(figsize=(4.4, 2.8), layout="constrained")
    axes = figure.subplots()
    memes, area, error = ([one[name] for one in curve] for name in ("memes", "auroc", "error"))
    axes.errorbar(memes, area, error, color=_COLOURS[0], marker="o", markersize=5, elinewidth=0.8, capsize=2)
    axes.set(xlabel="memes learnt from", ylabel="AUROC")
    axes.set_xlim(left=0)
    _plain(axes)
    return figure


@_as_svg
def threshold_chart(label: np.ndarray, probability: np.ndarray, threshold: float) -> Figure:
    """Precision, recall, F1 and macro-F1 of (N,) memes of both classes against the threshold, a line at the chosen."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    thresholds, curves = threshold_figures(label, probability)
    # The lowest threshold's values hold from 0 on, and 0 is where the axis would start anyway.
    for number, (name, values) in enumerate(curves.items()):
        style = {**_line(number), "linewidth": 1.8, "zorder": 3}
        axes.step(np.append(0, thresholds), np.append(values[0], values), where="pre", label=name, **style)
    axes.axvline(threshold, color="#000000", linewidth=1, label=f"chosen, {threshold:.3f}")
    low, high = min(thresholds[0], threshold), max(thresholds[-1], threshold)
    margin = max(0.02, 0.05 * (high - low))
    axes.set(xlabel="threshold", ylim=(-0.02, 1.02), xlim=(max(0, low - margin), min(1, high + margin)))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _plain(axes)
    return figure


@_as_svg
def history_chart(history: list[dict[str, Any]], measure: str) -> Figure:
    """What each trial reached and the best so far; `measure` names the value.

    history: as in config.json's study, with one value at least.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    size = 5 if len(history) < 100 else 3
    for state, marker, colour in (("complete", "o", _COLOURS[0]), ("pruned", "x", _QUIET)):
        points = [(run["trial"], run["value"]) for run in history if run["state"] == state and run["value"] is not None]
        if points:
            name = f"{state} ({len(points)})"
            axes.plot(*zip(*points), marker, markersize=size, color=colour, markerfacecolor="none", label=name)
    done = [run for run in history if run["state"] == "complete" and run["value"] is not None]
    if done:
        best = np.maximum.accumulate([run["value"] for run in done])
        numbers = [run["trial"] for run in done] + [history[-1]["trial"]]  # up to the end, where others were pruned
        axes.step(numbers, np.append(best, best[-1]), where="post", color=_COLOURS[1], label="best so far", zorder=3)
    axes.set(xlabel="trial", ylabel=measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _plain(axes)
    return figure


@_as_svg
def losses_chart(history: list[dict[str, Any]], best: int) -> Figure:
    """Losses of fine-tuning by epoch, a line at the best; history: as in config.json, the start first."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, part in enumerate(("validation", "train")):
        points = [(one["epoch"], one[f"{part}_loss"]) for one in history if one[f"{part}_loss"] is not None]
        if points:
            axes.plot(*zip(*points), marker="o", markersize=4, label=part, **_line(number))
    axes.axvline(best, color="#000000", linewidth=1, label=f"kept, epoch {best}")
    axes.set(xlabel="epoch; 0 is the frozen head", ylabel="mean log loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _plain(axes)
    return figure


@_as_svg
def importance_chart(importances: dict[str, float]) -> Figure:
    """Bars of each parameter's share, the largest on top; at least one."""
    names = sorted(importances, key=lambda name: importances[name])
    shares = [importances[name] for name in names]
    figure = Figure(figsize=(6.4, max(1.4, 0.6 + 0.26 * len(names))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name[:_LONGEST] for name in names], shares, color=_COLOURS[0], height=0.62)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=4, fontsize=9)
    axes.set(xlabel="share of the variance between trials", xlim=(0, max(0.05, *shares) * 1.15))
    _plain(axes)
    axes.grid(visible=False, axis="y")
    return figure


@_as_svg
def slice_chart(name: str, runs: list[tuple[int, Any, float]]) -> Figure:
    """AUROC against one parameter. runs: (trial, what the parameter was, AUROC)."""
    figure = Figure(figsize=(3.2, 2.5), layout="constrained")
    axes = figure.subplots()
    trials, settings, values = zip(*runs)
    places = _places(axes, settings, trials)
    axes.plot(places, values, "o", markersize=4 if len(runs) < 100 else 3, color=_COLOURS[0], alpha=0.6)
    axes.set(xlabel=name[:_LONGEST], ylabel="AUROC")
    _plain(axes)
    return figure


def _places(axes: Axes, settings: Iterable[Any], trials: Iterable[int]) -> list[float]:
    """Where each setting stands across, and an axis that suits them."""
    settings = list(settings)
    distinct = set(settings)
    numbers = all(isinstance(setting, (int, float)) and not isinstance(setting, bool) for setting in distinct)
    listed = len(distinct) <= _MOST_CATEGORIES and all(isinstance(setting, int) for setting in distinct)
    if numbers and not listed:
        if _is_skewed(settings):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        return settings
    names = [str(setting) for setting in sorted(distinct, key=None if numbers else str)]
    axes.set_xticks(range(len(names)), [name[:_NAME] for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    if sum(len(name[:_NAME]) for name in names) > _LEVEL_NAMES:
        axes.tick_params(axis="x", labelrotation=40)
    return [
        names.index(str(setting)) + _SPREAD * ((trial * _GOLDEN) % 1 - 0.5)
        for setting, trial in zip(settings, trials, strict=True)
    ]


def _is_skewed(settings: list[float]) -> bool:
    """Whether positive numbers lie so that a logarithmic axis spreads them better than a plain one."""
    low, high, middle = min(settings), max(settings), float(np.median(settings))
    return low > 0 and high > _WIDE_SPAN * low and high > _FAR_FROM_MIDDLE * middle


def _line(number: int) -> dict[str, Any]:
    kind = number % len(_COLOURS)
    return {
        "color": _COLOURS[kind],
        "linestyle": _DASHES[kind],
        "linewidth": 1.3 if number else 2.6,
        "zorder": 2.9 if number else 3,
    }


def _below(curves: int) -> dict[str, Any]:
    return {"loc": "outside lower center", "ncols": min(2, curves), "frameon": False, "fontsize": 8}


def _square(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N")
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
