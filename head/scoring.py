"""Probabilities of a bundle for every meme of an index whose vectors are cached; no encoder is loaded.

columns = score_index(load_bundle(folder), read_index(path), Path("artifacts/vectors"))
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cache import DatasetIndex, KeyColumn, TextColumn, VectorStore, require_same_spec
from head.bundle.format import LABELS, Bundle, answer_of

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
    rows = np.flatnonzero(TextColumn.of(index.skipped).lengths == 0)
    store, probability = VectorStore(vectors, index.spec), np.empty(len(rows))
    keys = {"image": KeyColumn.of(index.image_keys), "text": KeyColumn.of(index.text_keys)}
    with tqdm(total=len(rows), desc="scoring", unit="meme", unit_scale=True, delay=1) as bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            sides = (store.read(kind, column.take(block)) for kind, column in keys.items())
            probability[start : start + len(block)] = _probabilities(bundle, *sides)
            bar.update(len(block))
    texts = {"id": index.ids, "image": index.images, "split": index.splits}
    return {
        **{name: list(TextColumn.of(column).take(rows)) for name, column in texts.items()},
        "label": [LABELS[label] if label in (0, 1) else "" for label in np.asarray(index.labels)[rows].tolist()],
        "probability": probability,
        "decision": [answer_of(one, config["threshold"], config["review"]) for one in probability.tolist()],
    }


@torch.inference_mode()
def _probabilities(bundle: Bundle, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    sides = zip(*(torch.from_numpy(side).split(_ROWS) for side in (image, text)), strict=True)
    return bundle.calibration(torch.cat([bundle.shipped(*part).double() for part in sides]).numpy())
