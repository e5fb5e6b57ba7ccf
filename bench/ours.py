"""Our side: `python -m embed` as a user runs it, on a fresh cache, and the vectors that it left there.

It does not know what the others do.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import Case
from bench.machine import CommandFailed, python, run
from bench.weights import MODEL
from cache import VectorStore, read_index


@dataclass(frozen=True)
class Embedding:
    """seconds: embedding as the job counts it, the model's loading left out; wall: the whole command."""

    seconds: float
    wall: float
    peak_mb: float
    spec: dict[str, Any]
    vectors: dict[str, np.ndarray]


def embed(case: Case, weights: Path, artifacts: Path, precision: str = "") -> Embedding:
    """Run the job over the case's folder into fresh `artifacts`; "" leaves the precision to it. Raises CommandFailed."""
    shutil.rmtree(artifacts, ignore_errors=True)
    source = ("--data", case.folder, "--model", MODEL, "--pretrained", weights, "--artifacts", artifacts)
    chosen = ["--precision", precision] if precision else []
    done = run(python("embed", *source, *chosen, "--device", "cpu", "--json"))
    told = done.last_json()
    expected = {"image": case.count if case.images else 1, "text": case.count if case.texts else 1}
    if told["embedded"] != expected:
        raise CommandFailed(f"python -m embed embedded {told['embedded']}, expected {expected}")
    index = read_index(Path(told["index"]))
    store = VectorStore(artifacts / "vectors", index.spec)
    order = {name: number for number, name in enumerate(index.ids)}
    places = [order[f"{number:06d}"] for number in range(case.count)]
    keys = {"image": index.image_keys, "text": index.text_keys}
    sides = ["image"] * case.images + ["text"] * case.texts
    vectors = {side: store.read(side, [keys[side][place] for place in places]) for side in sides}
    return Embedding(told["seconds"], done.seconds, done.peak_mb, index.spec, vectors)
