"""Plots: the scale of axes, names without formulas, reproducible bytes."""

import base64
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from report import charts


def axis_of(settings: list[Any]) -> tuple[str, list[str]]:
    """The scale of the axis of these settings, and its tick labels."""
    axes = Figure().subplots()
    places = charts._positions(axes, settings, range(len(settings)))
    assert len(places) == len(settings)
    return axes.get_xscale(), [text.get_text() for text in axes.get_xticklabels() if text.get_text()]


@pytest.mark.parametrize(
    ("settings", "scale", "names"),
    [
        (["b", "a", "b"], "linear", ["a", "b"]),
        ([True, False], "linear", ["False", "True"]),
        ([256, 64, 128, 64], "linear", ["64", "128", "256"]),
        ([16, "none", None], "linear", ["16", "None", "none"]),
        ([10.0**power for power in range(-6, 0)], "log", None),
        (np.linspace(0.001, 0.6, 20).tolist(), "linear", None),
        ([0.4, 0.4, 0.1], "linear", None),
        ([0.0, 1e-5, 1e-2], "linear", None),
    ],
)
def test_the_scale_of_a_parameters_axis(settings: list[Any], scale: str, names: list[str] | None) -> None:
    assert axis_of(settings)[0] == scale
    assert names is None or axis_of(settings)[1] == names


def test_points_of_a_category_stay_near_its_tick() -> None:
    axes = Figure().subplots()
    places = np.array(charts._positions(axes, ["a", "b"] * 50, range(100)))
    assert (np.abs(places - np.tile([0, 1], 50)) <= 0.25).all() and len(set(places.tolist())) == 100


@pytest.mark.parametrize("name", ["$x$", r"$\frac", "x" * 300])
def test_a_name_is_drawn_as_plain_text(name: str) -> None:
    label = np.array([0, 1, 0, 1])
    for uri in (
        charts.roc_chart(label, {name: np.array([0.1, 0.2, 0.3, 0.4])}),
        charts.importance_chart({name: 0.5}),
        charts.slice_chart(name, [(0, name, 0.5), (1, "b", 0.6)]),
    ):
        assert uri.startswith("data:image/svg+xml;base64,")
        assert base64.b64decode(uri.partition(",")[2]).rstrip().endswith(b"</svg>")


@pytest.mark.parametrize("count", [2, 8, 20_000])
def test_the_size_of_plots(count: int) -> None:
    rng = np.random.default_rng(0)
    label, probability = np.arange(count) % 2, rng.random(count)
    for uri in (
        charts.roc_chart(label, {"a": probability}),
        charts.precision_recall_chart(label, {"a": probability}),
        charts.reliability_chart(label, {"a": probability}),
        charts.threshold_chart(label, probability, 0.5),
    ):
        assert 5_000 < len(uri) < 500_000


def test_plots_are_reproducible() -> None:
    history = [{"trial": 0, "state": "pruned", "value": 0.5}, {"trial": 1, "state": "complete", "value": 0.6}]
    assert charts.history_chart(history, "AUROC") == charts.history_chart(history, "AUROC")


def test_missing_losses_are_not_drawn() -> None:
    start = {"epoch": 0, "train_loss": None, "validation_loss": 0.5}
    curves = [[start], [start, {"epoch": 1, "train_loss": 0.4, "validation_loss": None}]]
    curves.append([*curves[1][:1], {"epoch": 1, "train_loss": 0.4, "validation_loss": 0.45}])
    drawn = [charts.losses_chart(history, len(history) - 1) for history in curves]
    assert len(set(drawn)) == 3 and drawn[2] == charts.losses_chart(curves[2], 1)
