"""The contents of a bundle's config.json and predictions.json, from calibrated methods."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import SPLITS, DatasetIndex, content_of
from head.bundle.evaluation import describe, predictions_of
from head.bundle.format import LABELS
from head.data.features import Features
from head.data.folds import Protocol
from head.judge.calibrated import CalibratedMethod
from head.judge.threshold import Aim, Unreachable, review_band


@dataclass(frozen=True, eq=False)
class Source:
    """The memes that are tuned on: the file of their index, the index, their features, and the features' fingerprint."""

    file: Path
    index: DatasetIndex
    features: Features
    fingerprint: str


@dataclass(frozen=True)
class Judging:
    """How methods are evaluated. review: the share of memes left to human review, None for no review band."""

    protocol: Protocol
    aim: Aim
    seed: int
    review: float | None = None


def bundle_settings(
    source: Source, judging: Judging, methods: dict[str, CalibratedMethod], held: np.ndarray, shipped: str, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json, without what `head.bundle.format.bundle_files` adds, and predictions.json.

    held: (H,) rows of the features with cross-fitted scores; shipped: name of the method that is served; more: further
    entries of config.json. Raises Unreachable if no threshold of the shipped method serves the aim.
    """
    judged, index = methods[shipped], source.index
    if judged.unreachable:
        raise Unreachable(
            f"{shipped}: {judged.unreachable}; the trials are kept: lower the target and run the command again"
        )
    memes = source.features.at(held)
    probability = {name: method.out_of_fold[held] for name, method in methods.items()}
    settings = {
        "name": source.file.stem,
        "seed": judging.seed,
        "shipped": shipped,
        "methods": {name: _method(method) for name, method in methods.items()},
        "calibration": asdict(judged.calibration),
        "aim": asdict(judging.aim),
        "threshold": judged.threshold,
        "flagged": float(np.mean(probability[shipped] >= judged.threshold)),
        "review": review_settings(memes.label, probability[shipped], judged.threshold, judging.review),
        "encoder": {part: index.source[part] for part in ("model", "pretrained")},
        "spec": index.spec,
        "data": {
            "source": index.source["data"],
            "content": content_of(index.image_keys),
            "ocr_lang": index.source.get("ocr_lang", ""),
            "index": source.file.name,
            "fingerprint": source.fingerprint,
            "groups": len(np.unique(source.features.copies)),
            "counts": split_counts(source.features),
        },
        "protocol": asdict(judging.protocol),
        **more,
    }
    copied = np.isin(memes.copies, np.delete(source.features.copies, held))
    settings["tuning_metrics"] = describe("tuning", memes, probability, settings, copied)
    return settings, {"tuning": predictions_of(memes, probability)}


def review_share(config: dict[str, Any]) -> float | None:
    """The share of memes that a bundle leaves to human review, None for no review band."""
    return config["review"]["share"] if config.get("review") else None


def review_after(review: float | None, last: dict[str, Any] | None) -> float | None:
    """The share to leave to review: `review`, 0 for none; where that is None, the share of the last bundle's config.json."""
    kept = review_share(last) if last else None
    return (kept if review is None else review) or None


def split_counts(features: Features) -> dict[str, dict[str, int]]:
    """{split: {label: number of memes}} of the splits present, offensive first."""
    present = [split for split in SPLITS if split in features.split]
    return {
        split: {LABELS[value]: int(np.sum((features.split == split) & (features.label == value))) for value in (1, 0)}
        for split in present
    }


def _method(judged: CalibratedMethod) -> dict[str, Any]:
    return {
        "calibration": asdict(judged.calibration),
        "threshold": judged.threshold,
        "settings": judged.method.settings,
    }


def review_settings(
    label: np.ndarray, probability: np.ndarray, threshold: float, share: float | None
) -> dict[str, Any] | None:
    """The entry "review" of config.json for a share of memes left to human review, None for None; label, probability: (N,)."""
    if share is None:
        return None
    band = review_band(label, probability, threshold, share)
    return {"share": share, "low": band.low, "high": band.high, "coverage": band.coverage, "error": band.error.plain()}
