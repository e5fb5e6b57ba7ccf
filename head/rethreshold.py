"""A new threshold for a tuned bundle, as a new version of it, without training.

It is chosen on the stored cross-fitted predictions.

version = rethreshold(Path("artifacts/bundles/latest"), Path("artifacts"), Aim("recall", 0.9), review=None)
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import Layout
from head.bundle.evaluation import describe
from head.bundle.format import UnusableBundle, load_bundle, read_predictions
from head.bundle.settings import review_settings
from head.bundle.versions import Version, save_version
from head.judge.threshold import Aim, Unreachable, choose_threshold


@dataclass(frozen=True)
class _TunedOn:
    """What predictions.json knows of the memes tuned on: (N,) labels, groups of near-duplicates, and subgroups."""

    label: np.ndarray
    copies: np.ndarray
    subgroup: np.ndarray


def rethreshold(folder: Path, artifacts: Path, aim: Aim, review: float | None) -> Version:
    """A new version of the bundle in `folder`, for this aim and share of memes left to review; it is not yet in use.

    Raises UnusableBundle, Unreachable where no threshold serves the aim, and OSError.
    """
    bundle, stored = load_bundle(folder), read_predictions(folder).get("tuning")
    if not isinstance(stored, dict) or "copies" not in stored or "reference" not in bundle.config:
        raise UnusableBundle(
            f"{folder}: tuned by an older version, without what a threshold is chosen on; run `make tune` again"
        )
    memes = _TunedOn(*(np.array(stored[name]) for name in ("label", "copies", "group")))
    probability = {name: np.array(values) for name, values in stored["probability"].items()}
    config, shipped = bundle.config, bundle.config["shipped"]
    methods = {
        name: {**config["methods"][name], "threshold": _threshold(memes.label, chances, aim, required=name == shipped)}
        for name, chances in probability.items()
    }
    threshold, chances = methods[shipped]["threshold"], probability[shipped]
    settings: dict[str, Any] = {
        **config,
        "methods": methods,
        "aim": asdict(aim),
        "threshold": threshold,
        "flagged": float(np.mean(chances >= threshold)),
        "review": review_settings(memes.label, chances, threshold, review),
    }
    # which memes have a near-duplicate in train does not depend on the threshold, and is not stored
    copies = config["tuning_metrics"]["copies"]
    nothing_copied = np.zeros(len(memes.label), bool)
    settings["tuning_metrics"] = describe("tuning", memes, probability, settings, nothing_copied) | {"copies": copies}
    # the change of a fine-tuned encoder; `save_version` writes the heads
    others = {path.name: path.read_bytes() for path in folder.glob("*.safetensors") if path.name != "head.safetensors"}
    return save_version(Layout(artifacts), bundle.ensembles, settings, {"tuning": stored}, others)


def _threshold(label: np.ndarray, probability: np.ndarray, aim: Aim, required: bool) -> float:
    try:
        return choose_threshold(label, probability, aim)
    except Unreachable:
        if required:
            raise
        return 1.0  # as `head.judge.calibrated` has it
