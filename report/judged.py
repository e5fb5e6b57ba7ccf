"""Reads an evaluated bundle from its folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from head.bundle.format import UnusableBundle, load_bundle, read_part, read_predictions


@dataclass(frozen=True)
class JudgedBundle:
    """The values of config.json, metrics.json and predictions.json; what the page shows besides: gallery: the values of
    gallery.json; nested: those of a nested cross-validation of the same memes; readings: evaluations on the test split so far."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    predictions: dict[str, Any]
    gallery: dict[str, Any] | None = None
    nested: dict[str, Any] | None = None
    readings: list[dict[str, Any]] = field(default_factory=list)


def read_judged(folder: Path) -> JudgedBundle:
    """Read a bundle and its metrics. Raises UnusableBundle, also if it has not been evaluated."""
    config = load_bundle(folder).config
    metrics = read_part(folder, "metrics.json")
    if metrics is None:
        raise UnusableBundle(f"{folder / 'metrics.json'}: missing; run `python -m report {folder}` first")
    return JudgedBundle(config, metrics, read_predictions(folder))
