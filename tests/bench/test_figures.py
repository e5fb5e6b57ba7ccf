"""From measurements to figures: ratios the right way round, goals, missing peers, vectors that differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import write_multioff

from bench.cases import Case, make_cases, read_rows
from bench.figures import DEFAULT, FP32, FP32_LIMIT, LIMIT, PEER, PLAIN, result, table, towers_table

CASE = Case("memes", Path("nowhere"), 100, images=True, texts=True)


def measured(peer: bool = True, fp32_vectors: float = 1.0) -> dict[str, dict[str, Any]]:
    def entry(seconds: list[float], value: float = 1.0) -> dict[str, Any]:
        vectors = {"image": np.full((2, 3), value, np.float32)}
        return {"seconds": seconds, "wall": [s + 1 for s in seconds], "vectors": vectors, "spec": {"dtype": "bfloat16"}}

    limit = {"decode_s": [1.0, 0.5], "products_s": [0.5, 2.0], "dtype": "bfloat16"}
    contenders = {
        f"{PLAIN}, 0 workers": entry([10.0, 12.0]),
        f"{PLAIN}, 2 workers": entry([8.0, 20.0]),
        FP32: entry([4.0], fp32_vectors),
        "onnxruntime": entry([3.0]),
        DEFAULT: entry([2.0, 1.25]),
        LIMIT: dict(limit),
        FP32_LIMIT: dict(limit),
    }
    return contenders | ({PEER: entry([16.0])} if peer else {})


def test_the_fastest_round_counts_and_the_better_plain_loop() -> None:
    found = result(CASE, measured())
    assert found["plain_loop"] == f"{PLAIN}, 2 workers"
    assert {name: ratio for name, ratio in found["ratios"].items() if ratio} == {
        "d/a": 6.4,
        "d/b": 12.8,
        "c/a": 2.0,
        "c/e": 0.75,
        "limit/d": 1.25,
    }
    expected = dict.fromkeys(("d/a", "d/b", "c/a", "limit/d"), True) | {"c/e": False, "c/f": None, "d/g": None}
    assert found["goals"] == expected
    assert found["agrees"]


def test_without_the_peer_its_figures_are_null_and_the_table_says_why() -> None:
    found = result(CASE, measured(peer=False))
    assert found["memes_per_s"][PEER] is None
    assert found["ratios"]["d/b"] is None
    assert found["goals"]["d/b"] is None
    assert "no registry" in table({"memes": found}, ["no registry"])


def test_the_table_of_towers_says_how_many_times_as_fast_ours_are() -> None:
    rates = {"ours": {"image": 30.0, "text": 60.0}, "openvino": {"image": 20.0, "text": 80.0}}
    lines = towers_table({"float32": rates}).splitlines()
    assert lines[2].split() == ["openvino,", "float32", "20.0", "(1.50)", "80.0", "(0.75)"]


@pytest.mark.parametrize(("value", "agrees"), [(1.00005, True), (1.001, False)])
def test_vectors_that_differ_are_seen(value: float, agrees: bool) -> None:
    assert result(CASE, measured(fp32_vectors=value))["agrees"] is agrees


def test_cases_hold_each_picture_and_text_once(tmp_path: Path) -> None:
    rows = [("a.png", "one", "1"), ("a.png", "two", "0"), ("b.png", "one", "1"), ("c.png", "three", "0")]
    data = write_multioff(tmp_path / "data", rows)
    (data / "Labelled Images" / "d.png").write_bytes(b"no picture")
    write_multioff(data, [*rows, ("d.png", "four", "0")])
    cases = make_cases(data, tmp_path / "work")
    assert {case.name: case.count for case in cases} == {"memes": 2, "images": 3, "texts": 3}
    assert [row.text for row in read_rows(cases[0].folder)] == ["one", "three"]
    assert all(row.picture.is_file() for case in cases for row in read_rows(case.folder))
