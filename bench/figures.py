"""Compute rates, ratios, goals and vector differences of `bench.embed`, and format its table.

It runs nothing and reads no file.
"""

from typing import Any

import numpy as np

from bench.cases import Case
from bench.machine import verdict

PLAIN, PEER, FP32, DEFAULT, LIMIT, FP32_LIMIT = (
    "open_clip",
    "clip_retrieval",
    "ours_fp32",
    "ours",
    "limit",
    "limit_fp32",
)
# {contender: (runtime, dtype)} of `bench.runtimes`.
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "float32"),
    "openvino": ("openvino", "float32"),
    "openvino_bf16": ("openvino", "bfloat16"),
}
_LABELS = {
    PLAIN: "(a) open_clip, plain loop",
    PEER: "(b) clip-retrieval",
    FP32: "(c) ours, fp32",
    DEFAULT: "(d) ours, default",
    "onnxruntime": "(e) ONNX Runtime, fp32",
    "openvino": "(f) OpenVINO, fp32",
    "openvino_bf16": "(g) OpenVINO, bf16",
    FP32_LIMIT: "    limit for (c)",
    LIMIT: "    limit for (d)",
}
# name: (numerator, denominator, minimum, maximum) of a ratio of rates
_GOALS = {
    "d/a": (DEFAULT, PLAIN, 4.0, None),
    "d/b": (DEFAULT, PEER, 4.0, None),
    "c/a": (FP32, PLAIN, 1.5, None),
    "c/e": (FP32, "onnxruntime", 1.0, None),
    "c/f": (FP32, "openvino", 1.0, None),
    "d/g": (DEFAULT, "openvino_bf16", 1.0, None),
    "limit/d": (LIMIT, DEFAULT, None, 1.25),
}
# Maximum difference for (c); maximum 1 - cosine for the others.
_TOLERANCES = {FP32: 1e-4, DEFAULT: 1e-3, PEER: 1e-3, "onnxruntime": 1e-3, "openvino": 1e-3, "openvino_bf16": 1e-2}

Measured = dict[str, dict[str, Any]]
"""{contender: {"seconds": [...], "wall": [...], ...}} of one case."""


def result(case: Case, measured: Measured) -> dict[str, Any]:
    """Figures of one case, with the plain loop's faster number of workers."""
    plain = {name: entry for name, entry in measured.items() if name.startswith(PLAIN)}
    better = min(plain, key=lambda name: min(plain[name]["seconds"]))
    entries = {PLAIN: measured[better]} | {name: e for name, e in measured.items() if name not in plain}
    for name in (LIMIT, FP32_LIMIT):
        entry = entries[name]
        entry["seconds"] = [min(entry["decode_s"]) + min(entry["products_s"])]
    rates = {name: case.count / min(entry["seconds"]) for name, entry in entries.items()}
    wall = {name: case.count / min(entry["wall"]) for name, entry in entries.items() if "wall" in entry}
    ratios = {name: _over(rates, top, below) for name, (top, below, _, _) in _GOALS.items()}
    differences = _differences(entries)
    return {
        "memes": case.count,
        "memes_per_s": {PEER: None} | _rounded(rates),
        "memes_per_s_whole_command": {PEER: None} | _rounded(wall),
        "seconds": {name: _rounded(dict(enumerate(e["seconds"]))) for name, e in (measured | entries).items()},
        "plain_loop": better,
        "dtype": entries[DEFAULT]["spec"]["dtype"],
        "limit_parts_s": {part: round(min(entries[LIMIT][part]), 3) for part in ("decode_s", "products_s")},
        "ratios": ratios,
        "ratios_whole_command": {name: _over(wall, top, below) for name, (top, below, _, _) in _GOALS.items()},
        "goals": {name: _met(ratios[name], least, most) for name, (_, _, least, most) in _GOALS.items()},
        "differences": differences,
        "agrees": all(differences[name]["largest"] <= _TOLERANCES[name] for name in differences),
    }


def _differences(entries: Measured) -> dict[str, dict[str, Any]]:
    """Against the plain loop's vectors: maximum difference for ours in fp32, maximum 1 - cosine for the others."""
    right = entries[PLAIN]["vectors"]
    found = {}
    for name in _TOLERANCES:
        if name in entries:
            measure = _absolute if name == FP32 else _cosine
            sides = {side: measure(vectors, right[side]) for side, vectors in entries[name]["vectors"].items()}
            kind = "max |difference|" if name == FP32 else "max 1 - cosine"
            found[name] = {"measure": kind, **sides, "largest": max(sides.values())}
    return found


def _absolute(ours_: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(ours_ - right).max())


def _cosine(ours_: np.ndarray, right: np.ndarray) -> float:
    one, other = ours_.astype(np.float64), right.astype(np.float64)
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(1 - cosine.min())


def _over(rates: dict[str, float], top: str, below: str) -> float | None:
    return round(rates[top] / rates[below], 3) if top in rates and below in rates else None


def _met(ratio: float | None, least: float | None, most: float | None) -> bool | None:
    if ratio is None:
        return None
    return (least is None or ratio >= least) and (most is None or ratio <= most)


def _rounded(figures: dict[Any, float]) -> Any:
    kept = {name: round(figure, 2) for name, figure in figures.items()}
    return list(kept.values()) if 0 in kept else kept


def table(results: dict[str, dict[str, Any]], why_not: list[str]) -> str:
    """The table of {case: figures}; why_not: a line for each peer that was not measured."""
    lines = [f"{'memes/s, loading left out (whole command)':42}" + "".join(f"{case:>20}" for case in results)]
    for name, label in _LABELS.items():
        cells = [_cell(r["memes_per_s"].get(name), r["memes_per_s_whole_command"].get(name)) for r in results.values()]
        lines.append(f"{label:42}" + "".join(f"{cell:>20}" for cell in cells))
    for name, (_, _, least, most) in _GOALS.items():
        cells = [f"{r['ratios'][name]} {verdict(r['goals'][name])}" for r in results.values()]
        bound = f"{least:g} or more" if least else f"{most:g} or less"
        lines.append(f"{f'{name}, goal {bound}':42}" + "".join(f"{cell:>20}" for cell in cells))
    for name in _TOLERANCES:
        cells = [
            f"{r['differences'][name]['largest']:.1e}" if name in r["differences"] else "-" for r in results.values()
        ]
        letter = _LABELS[name][1]
        label = "max |c - a|" if name == FP32 else f"max 1 - cos to a, {letter}"
        lines.append(f"{label:42}" + "".join(f"{cell:>20}" for cell in cells))
    first = next(iter(results.values()))
    parts = first["limit_parts_s"]
    lines.append(
        f"(a) is the {first['plain_loop']}; (d) computes in {first['dtype']}; its limit on memes is "
        f"{parts['decode_s']} s decoding + {parts['products_s']} s products"
    )
    return "\n".join(lines + why_not)


def towers_table(towers: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table of {dtype: {contender: {side: items/s}}}, with ratios of ours to each peer."""
    lines = ["towers alone, items/s (ours / theirs)                     images               texts"]
    for dtype, rates in towers.items():
        for name, found in rates.items():
            cells = [f"{found[side]:.1f} ({rates['ours'][side] / found[side]:.2f})" for side in ("image", "text")]
            lines.append(f"{f'{name}, {dtype}':42}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def _cell(rate: float | None, wall: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" + (f" ({wall:.1f})" if wall else "")
