"""The report's plots as SVG data URIs, the same bytes for the same values. Uses `Figure` objects, not pyplot."""

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

Arguments = ParamSpec("Arguments")

# Okabe and Ito's colour-blind safe palette; the first is for the shipped method. Dashes are for black and white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#666666", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)), (0, (3, 1)))
_GREY = "#999999"
_LIGHT_GREY = "#cccccc"
# No formulas: names from files may hold `$`. A fixed salt makes the ids of paths the same in every run.
_SETTINGS: dict[RcKeyType, Any] = {"svg.hashsalt": "report", "text.parse_math": False, "font.size": 10}
# An axis is logarithmic if the largest value exceeds this multiple of the smallest, and this multiple of the median.
_WIDE_SPAN, _FAR_FROM_MIDDLE = 50, 4
# Jitter of the points of a category: its width, and the golden ratio, whose multiples fill it evenly.
_SPREAD, _GOLDEN = 0.5, 0.618034
# At most this many distinct integers are drawn as categories.
_MOST_CATEGORIES = 6
# Characters of the name of a method or parameter.
_LONGEST = 40
# Characters of the name of a category.
_NAME = 12
# Characters of all categories' names that fit side by side; with more they are rotated.
_ALL_NAMES = 20


def _as_svg(draw: Callable[Arguments, Figure]) -> Callable[Arguments, str]:
    """Make `draw` return its figure as an SVG data URI."""

    @wraps(draw)
    def drawn(*arguments: Arguments.args, **named: Arguments.kwargs) -> str:
        data = io.BytesIO()
        with matplotlib.rc_context(_SETTINGS):
            draw(*arguments, **named).savefig(data, format="svg", metadata={"Date": None, "Creator": None})
        return f"data:image/svg+xml;base64,{base64.b64encode(data.getvalue()).decode()}"

    return drawn


@_as_svg
def roc_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """ROC curves of several methods, the first in front. label: (N,) of both classes; probabilities: (N,) by method."""
    figure, axes = _square("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=_LIGHT_GREY, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        axes.plot(*roc(label, probability), label=name[:_LONGEST], **_line_style(number))
    figure.legend(**_legend(len(probabilities)))
    return figure


@_as_svg
def precision_recall_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """Precision-recall curves of several methods, the first in front. label: (N,) of both classes; probabilities: (N,)."""
    figure, axes = _square("recall", "precision")
    axes.axhline(label.mean(), color=_LIGHT_GREY, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        axes.step(*precision_recall(label, probability), where="pre", label=name[:_LONGEST], **_line_style(number))
    figure.legend(**_legend(len(probabilities)))
    return figure


@_as_svg
def reliability_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """Share of offensive memes by probability, in bins of equal numbers; the first method has 95 % intervals.

    label: (N,) of 0 and 1; probabilities: (N,) by method.
    """
    figure, axes = _square("probability given", "share that is offensive")
    axes.plot([0, 1], [0, 1], color=_LIGHT_GREY, linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        given, share, (low, high) = reliability(label, probability)
        axes.plot(given, share, label=name[:_LONGEST], marker="o", markersize=3, **_line_style(number))
        if number == 0:
            bars = np.maximum(np.stack((share - low, high - share)), 0)  # rounding errors
            axes.errorbar(given, share, bars, color=_COLOURS[0], linestyle="none", elinewidth=0.8, capsize=2)
    figure.legend(**_legend(len(probabilities)))
    return figure


@_as_svg
def cost_chart(thresholds: np.ndarray, curve: np.ndarray, costs: dict[str, float], threshold: float) -> Figure:
    """Cost of 1,000 memes by threshold. thresholds, curve: (T,); costs: of `report.costs.costs`."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.step(thresholds, curve, where="pre", color=_COLOURS[0], linewidth=1.8, label="this model")
    for name, style in (("none", ":"), ("all", "--")):
        axes.axhline(costs[name], color=_LIGHT_GREY, linestyle=style, linewidth=1.2, label=f"{name} flagged")
    axes.axvline(threshold, color="#000000", linewidth=1, label=f"chosen, {threshold:.3f}")
    axes.plot(costs["at"], costs["cheapest"], "o", color=_COLOURS[1], label=f"cheapest, {costs['at']:.3f}")
    axes.set(xlabel="threshold", ylabel="cost of 1,000 memes", xlim=(-0.02, 1.02))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _style_axes(axes)
    return figure


@_as_svg
def learning_chart(curve: list[dict[str, Any]]) -> Figure:
    """AUROC by number of training memes, with standard errors."""
    figure = Figure(figsize=(4.4, 2.8), layout="constrained")
    axes = figure.subplots()
    memes, area, error = ([one[name] for one in curve] for name in ("memes", "auroc", "error"))
    axes.errorbar(memes, area, error, color=_COLOURS[0], marker="o", markersize=5, elinewidth=0.8, capsize=2)
    axes.set(xlabel="memes learnt from", ylabel="AUROC")
    axes.set_xlim(left=0)
    _style_axes(axes)
    return figure


@_as_svg
def threshold_chart(label: np.ndarray, probability: np.ndarray, threshold: float) -> Figure:
    """Precision, recall, F1 and macro-F1 of (N,) memes of both classes by threshold, with a line at the chosen one."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    thresholds, curves = threshold_figures(label, probability)
    # The values of the lowest threshold hold from 0 on.
    for number, (name, values) in enumerate(curves.items()):
        style = {**_line_style(number), "linewidth": 1.8, "zorder": 3}
        axes.step(np.append(0, thresholds), np.append(values[0], values), where="pre", label=name, **style)
    axes.axvline(threshold, color="#000000", linewidth=1, label=f"chosen, {threshold:.3f}")
    low, high = min(thresholds[0], threshold), max(thresholds[-1], threshold)
    margin = max(0.02, 0.05 * (high - low))
    axes.set(xlabel="threshold", ylim=(-0.02, 1.02), xlim=(max(0, low - margin), min(1, high + margin)))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _style_axes(axes)
    return figure


@_as_svg
def history_chart(history: list[dict[str, Any]], measure: str) -> Figure:
    """The value of each trial and the best so far. history: of config.json's study, with at least one value; measure:
    name of the value."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    size = 5 if len(history) < 100 else 3
    for state, marker, colour in (("complete", "o", _COLOURS[0]), ("pruned", "x", _GREY)):
        points = [(run["trial"], run["value"]) for run in history if run["state"] == state and run["value"] is not None]
        if points:
            name = f"{state} ({len(points)})"
            axes.plot(*zip(*points), marker, markersize=size, color=colour, markerfacecolor="none", label=name)
    done = [run for run in history if run["state"] == "complete" and run["value"] is not None]
    if done:
        best = np.maximum.accumulate([run["value"] for run in done])
        numbers = [run["trial"] for run in done] + [history[-1]["trial"]]  # to the last trial, also if it was pruned
        axes.step(numbers, np.append(best, best[-1]), where="post", color=_COLOURS[1], label="best so far", zorder=3)
    axes.set(xlabel="trial", ylabel=measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _style_axes(axes)
    return figure


@_as_svg
def losses_chart(history: list[dict[str, Any]], best: int) -> Figure:
    """Losses of fine-tuning by epoch, with a line at the best. history: of config.json, epoch 0 first."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, part in enumerate(("validation", "train")):
        points = [(one["epoch"], one[f"{part}_loss"]) for one in history if one[f"{part}_loss"] is not None]
        if points:
            axes.plot(*zip(*points), marker="o", markersize=4, label=part, **_line_style(number))
    axes.axvline(best, color="#000000", linewidth=1, label=f"kept, epoch {best}")
    axes.set(xlabel="epoch; 0 is the frozen head", ylabel="mean log loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _style_axes(axes)
    return figure


@_as_svg
def importance_chart(importances: dict[str, float]) -> Figure:
    """Bars of the parameters' importances, the largest on top. importances: not empty."""
    names = sorted(importances, key=lambda name: importances[name])
    shares = [importances[name] for name in names]
    figure = Figure(figsize=(6.4, max(1.4, 0.6 + 0.26 * len(names))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name[:_LONGEST] for name in names], shares, color=_COLOURS[0], height=0.62)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=4, fontsize=9)
    axes.set(xlabel="share of the variance between trials", xlim=(0, max(0.05, *shares) * 1.15))
    _style_axes(axes)
    axes.grid(visible=False, axis="y")
    return figure


@_as_svg
def slice_chart(name: str, runs: list[tuple[int, Any, float]]) -> Figure:
    """AUROC by value of one parameter. runs: (trial, value, AUROC)."""
    figure = Figure(figsize=(3.2, 2.5), layout="constrained")
    axes = figure.subplots()
    trials, settings, values = zip(*runs)
    places = _positions(axes, settings, trials)
    axes.plot(places, values, "o", markersize=4 if len(runs) < 100 else 3, color=_COLOURS[0], alpha=0.6)
    axes.set(xlabel=name[:_LONGEST], ylabel="AUROC")
    _style_axes(axes)
    return figure


def _positions(axes: Axes, settings: Iterable[Any], trials: Iterable[int]) -> list[float]:
    """The x position of each setting; sets the scale and ticks of the axis."""
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
    if sum(len(name[:_NAME]) for name in names) > _ALL_NAMES:
        axes.tick_params(axis="x", labelrotation=40)
    return [
        names.index(str(setting)) + _SPREAD * ((trial * _GOLDEN) % 1 - 0.5)
        for setting, trial in zip(settings, trials, strict=True)
    ]


def _is_skewed(settings: list[float]) -> bool:
    """Whether a logarithmic axis spreads the numbers better than a linear one."""
    low, high, middle = min(settings), max(settings), float(np.median(settings))
    return low > 0 and high > _WIDE_SPAN * low and high > _FAR_FROM_MIDDLE * middle


def _line_style(number: int) -> dict[str, Any]:
    kind = number % len(_COLOURS)
    return {
        "color": _COLOURS[kind],
        "linestyle": _DASHES[kind],
        "linewidth": 1.3 if number else 2.6,
        "zorder": 2.9 if number else 3,
    }


def _legend(curves: int) -> dict[str, Any]:
    return {"loc": "outside lower center", "ncols": min(2, curves), "frameon": False, "fontsize": 8}


def _square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N")
    _style_axes(axes)
    return figure, axes


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
