"""The report's pictures, as SVG data URIs. Works on arrays; knows nothing of bundles or HTML.

Draws on `Figure` objects, without pyplot, so that no global state is touched. Called by `head.report`.
"""

import base64
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, told apart with any colour vision; the head comes first. The dashes help in black and white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#888888")
_DASHES = ("-", "--", "-.", ":", (0, (1, 3)))
# Memes in a bin of the reliability plot: with fewer, the bars say nothing.
_BIN_MEMES = 15
_MOST_BINS = 10


def roc_chart(label: np.ndarray, probabilities: dict[str, np.ndarray]) -> str:
    """ROC curves of several methods on (N,) memes of both classes, the first one drawn thickest."""
    figure, axes = _square("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for number, (name, probability) in enumerate(probabilities.items()):
        style = {"color": _COLOURS[number % 5], "linestyle": _DASHES[number % 5], "linewidth": 1.4 if number else 2.6}
        axes.plot(*_roc(label, probability), label=name, **style, zorder=3 - number / 10)
    axes.legend(loc="lower right", fontsize=7.5, frameon=False)
    return _data_uri(figure)


def reliability_chart(label: np.ndarray, probability: np.ndarray) -> str:
    """Share of offensive memes against probability, in bins of equal numbers, with 95 % Wilson intervals."""
    figure, axes = _square("probability given", "share that is offensive")
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    bins = np.array_split(np.argsort(probability, kind="stable"), max(1, min(_MOST_BINS, len(label) // _BIN_MEMES)))
    given = np.array([probability[rows].mean() for rows in bins])
    share = np.array([label[rows].mean() for rows in bins])
    low, high = _wilson(share, np.array([len(rows) for rows in bins]))
    bars = np.maximum(np.stack((share - low, high - share)), 0)  # rounding can reach below 0
    axes.errorbar(given, share, bars, color=_COLOURS[0], marker="o", markersize=5, elinewidth=0.8, capsize=2)
    return _data_uri(figure)


def history_chart(history: list[dict]) -> str:
    """Validation AUROC of each trial, [{trial, state, value}], and the best so far."""
    figure = Figure(figsize=(5.6, 2.5), layout="constrained")
    axes = figure.subplots()
    for state, marker, colour in (("complete", "o", _COLOURS[0]), ("pruned", "x", "#999999")):
        points = [(run["trial"], run["value"]) for run in history if run["state"] == state and run["value"] is not None]
        if points:
            axes.scatter(*zip(*points), s=22, marker=marker, color=colour, label=f"{state} ({len(points)})", zorder=3)
    done = [run for run in history if run["state"] == "complete"]
    if done:
        best = np.maximum.accumulate([run["value"] for run in done])
        numbers = [run["trial"] for run in done]
        axes.step(numbers, best, where="post", color=_COLOURS[1], linewidth=1.5, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("validation AUROC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    _plain(axes)
    return _data_uri(figure)


def _roc(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))  # ties move together
    hits, alarms = np.cumsum(label[order])[ends], np.cumsum(1 - label[order])[ends]
    return np.append(0, alarms) / max(1, alarms[-1]), np.append(0, hits) / max(1, hits[-1])


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a share of `count` memes: unlike the plain one it is sane at 0 and 1."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return centre - half, centre + half


def _square(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)


def _data_uri(figure: Figure) -> str:
    data = BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(data.getvalue()).decode()}"
