"""Probabilities of a bundle for every meme of an index whose vectors are cached; no encoder is loaded.

columns = score_index(load_bundle(folder), read_index(path), Path("artifacts/vectors"))
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cache import DatasetIndex, VectorStore, require_same_spec
from head.bundle.format import LABELS, Bundle

# Memes whose vectors are in memory at once: 1 GB of 1024 numbers. Each block reads every segment that it needs.
_BLOCK = 1 << 18
# Memes per forward pass.
_ROWS = 4096


def score_index(bundle: Bundle, index: DatasetIndex, vectors: Path) -> dict[str, Any]:
    """{column: (N,)}: id, image, split, label, probability and decision of the memes with vectors, labelled or not.

    decision: "offensive", "non-offensive", or "review" within the bundle's review band; label: "" for none. Raises
    SpecMismatch for vectors of another encoder, MissingVectors, DamagedSegment.
    """
    config = bundle.config
    require_same_spec(config["spec"], index.spec, f"the bundle {config['name']} and the index")
    rows = np.array([row for row, reason in enumerate(index.skipped) if not reason], np.int64)
    store, probability = VectorStore(vectors, index.spec), np.empty(len(rows))
    image_keys, text_keys = list(index.image_keys), list(index.text_keys)
    with tqdm(total=len(rows), desc="scoring", unit="meme", unit_scale=True, delay=1) as bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            sides = [
                store.read(kind, [keys[row] for row in block])
                for kind, keys in (("image", image_keys), ("text", text_keys))
            ]
            probability[start : start + len(block)] = _probabilities(bundle, *sides)
            bar.update(len(block))
    return {
        **{
            name: _at(getattr(index, column), rows)
            for name, column in (("id", "ids"), ("image", "images"), ("split", "splits"))
        },
        "label": [LABELS[label] if label in (0, 1) else "" for label in _at(index.labels, rows)],
        "probability": probability,
        "decision": _decisions(config, probability),
    }


@torch.inference_mode()
def _probabilities(bundle: Bundle, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    sides = zip(*(torch.from_numpy(side).split(_ROWS) for side in (image, text)), strict=True)
    return bundle.calibration(torch.cat([bundle.shipped(*part).double() for part in sides]).numpy())


def _decisions(config: dict[str, Any], probability: np.ndarray) -> np.ndarray:
    called = np.where(probability >= config["threshold"], LABELS[1], LABELS[0])
    band = config["review"]
    if not band:
        return called
    return np.where((probability >= band["low"]) & (probability < band["high"]), "review", called)


def _at(values: Any, rows: np.ndarray) -> list[Any]:
    listed = list(values)
    return [listed[row] for row in rows.tolist()]
