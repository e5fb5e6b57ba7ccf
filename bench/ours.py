"""Contenders (c) and (d) of `bench.embed`: `python -m embed` on a fresh cache, and its vectors."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import Case
from bench.machine import CommandFailed, python, run
from bench.weights import MODEL
from cache import Layout, VectorStore, read_index


@dataclass(frozen=True)
class Embedding:
    """A run. seconds: of embedding without loading the model, as the job reports; wall: of the whole command.

    vectors: {"image" | "text": (N, D) float32} in the order of the case.
    """

    seconds: float
    wall: float
    peak_mb: float
    spec: dict[str, Any]
    vectors: dict[str, np.ndarray]


def embed(case: Case, weights: Path, artifacts: Path, precision: str = "") -> Embedding:
    """Run the job on a case into fresh `artifacts`; precision "": the job's default. Raises CommandFailed."""
    shutil.rmtree(artifacts, ignore_errors=True)
    source = ("--data", case.folder, "--model", MODEL, "--pretrained", weights, "--artifacts", artifacts)
    chosen = ["--precision", precision] if precision else []
    done = run(python("embed", *source, *chosen, "--device", "cpu", "--json"))
    summary = done.last_json()
    expected = {"image": case.count if case.images else 1, "text": case.count if case.texts else 1}
    if summary["embedded"] != expected:
        raise CommandFailed(f"python -m embed embedded {summary['embedded']}, expected {expected}")
    index = read_index(Path(summary["index"]))
    store = VectorStore(Layout(artifacts).vectors, index.spec)
    order = {name: number for number, name in enumerate(index.ids)}
    places = [order[f"{number:06d}"] for number in range(case.count)]
    keys = {"image": index.image_keys, "text": index.text_keys}
    sides = ["image"] * case.images + ["text"] * case.texts
    vectors = {side: store.read(side, [keys[side][place] for place in places]) for side in sides}
    return Embedding(summary["seconds"], done.seconds, done.peak_mb, index.spec, vectors)
