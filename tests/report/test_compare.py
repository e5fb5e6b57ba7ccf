"""Comparison of two bundles, with a p only for the same memes."""

import copy
from typing import Any

import numpy as np
import pytest

from head.judge.delong import auroc_difference
from head.judge.metrics import read_estimate
from report.compare import compare_bundles, comparison_summary, comparison_table, render_comparison
from report.judged import JudgedBundle
from tests.report.test_page import NAMES, REFERENCE, SHIPPED, _Outline, bundle, metrics_of


def judged(values: dict[str, Any]) -> JudgedBundle:
    return JudgedBundle(values["config"], values["metrics"], values["predictions"])


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    """A bundle, and one over the same memes, in another order, that ships a worse method and other settings."""
    first = bundle()
    second = copy.deepcopy(first)
    test = second["predictions"]["test"]
    order = np.random.default_rng(3).permutation(len(test["ids"]))
    for name in ("ids", "label", "group", "copies"):
        test[name] = [test[name][place] for place in order]
    test["probability"] = {name: [test["probability"][name][place] for place in order] for name in NAMES}
    second["metrics"] = metrics_of(test, "test")
    second["config"] |= {"name": "other", "shipped": "nearest neighbours", "seed": 7}
    second["config"]["study"]["picks"].pop()
    second["config"]["spec"] = {"model": "ViT-B-32", "dtype": "float32"}
    return first, second


@pytest.fixture
def two(both: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A copy of `both` to change."""
    return copy.deepcopy(both)


def test_the_same_memes_are_paired_in_any_order(two: tuple) -> None:
    comparison = compare_bundles(*map(judged, two))
    order = np.argsort(two[0]["predictions"]["test"]["ids"])
    test = two[0]["predictions"]["test"]
    ours, theirs = (np.array(test["probability"][name])[order] for name in (SHIPPED, "nearest neighbours"))
    expected = auroc_difference(np.array(test["label"])[order], ours, theirs, np.arange(149))
    assert not comparison.not_comparable and comparison.chart
    assert {name for name, row in comparison.rows.items() if row.p is not None} == {"auroc"}
    assert comparison.rows["auroc"].p == pytest.approx(expected.p)
    for row in comparison.rows.values():
        assert row.difference == pytest.approx(row.b["point"] - row.a["point"])
    assert comparison.rows["auroc"].difference == pytest.approx(-expected.value)
    assert comparison_summary(comparison).startswith("On the same memes, A has a higher AUROC than B (B minus A -0.")


def test_a_bundle_does_not_differ_from_itself(both: tuple) -> None:
    comparison = compare_bundles(judged(both[0]), judged(both[0]))
    assert comparison.differing == {}
    assert {"encoder", "spec", "data", "protocol", "aim", "seed", "versions", "part 2 of the ensemble"} <= {
        *comparison.equal
    }
    assert all(row.difference == 0 for row in comparison.rows.values()) and comparison.rows["auroc"].p == 1
    assert "do not differ significantly (B minus A +0.000, p 1.000)" in comparison_summary(comparison)


def test_differing_settings_have_both_values(both: tuple) -> None:
    comparison = compare_bundles(*map(judged, both))
    assert comparison.differing["seed"] == ("0", "7")
    assert comparison.differing["shipped"] == (SHIPPED, "nearest neighbours")
    assert comparison.differing["spec.model"] == ("ViT-L-14", "ViT-B-32")
    assert comparison.differing["part 2 of the ensemble"][1] == "none" and "part 1 of the ensemble" in comparison.equal
    assert "spec.dtype" in comparison.equal and "encoder" in comparison.equal


def _relabelled(values: dict[str, Any]) -> None:
    values["predictions"]["test"]["label"][0] ^= 1


def _fewer(values: dict[str, Any]) -> None:
    test = values["predictions"]["test"]
    for name in ("ids", "label", "group", "copies"):
        test[name] = test[name][1:]


def _tuning(values: dict[str, Any]) -> None:
    values["metrics"]["split"] = "tuning"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_relabelled, "the same labels (149 memes and 149 memes, 148 of them in both)"),
        (_fewer, "the same labels (149 memes and 148 memes, 148 of them in both)"),
        (_tuning, "A was evaluated on the test split, B on train and validation, out of fold"),
    ],
)
def test_different_memes_are_not_compared(two: tuple, change: Any, why: str) -> None:
    change(two[1])
    first, second = map(judged, two)
    comparison = compare_bundles(first, second)
    assert why in comparison.not_comparable and comparison.chart is None
    assert all(row.p is None and row.difference is None for row in comparison.rows.values())
    page = _Outline(render_comparison(first, second, comparison))
    assert why in page.text and "B minus A" not in page.text and not page.images()


def test_page_and_table_have_all_metrics_of_both(both: tuple) -> None:
    first, second = map(judged, both)
    comparison = compare_bundles(first, second)
    text, table = _Outline(render_comparison(first, second, comparison)).text, comparison_table(comparison)
    for row in comparison.rows.values():
        for figure in (row.a, row.b):
            shown = str(read_estimate(figure))
            assert shown in text and shown in table
        assert f"{row.difference:+.3f}" in text and f"{row.difference:+.3f}" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_comparison_is_escaped_and_self_contained(two: tuple) -> None:
    hostile = "<script>alert(1)</script> $x$"
    two[1]["config"] |= {"name": hostile, "versions": {hostile: hostile}}
    first, second = map(judged, two)
    page = render_comparison(first, second, compare_bundles(first, second))
    outline = _Outline(page)
    assert "<script" not in page and hostile in outline.text
    assert all(source.startswith("data:image/svg+xml;base64,") for source in outline.images().values())
    assert "default-src 'none'" in page


def test_one_class_has_no_curve_and_no_p() -> None:
    values = bundle(one_class=True)
    values["config"]["shipped"] = REFERENCE
    comparison = compare_bundles(judged(values), judged(values))
    assert comparison.chart is None and comparison.rows["auroc"].p is None
    assert "undefined" in comparison_summary(comparison)
