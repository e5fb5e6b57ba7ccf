"""A bundle that has been judged, read from its folder. Computes nothing and does not look at the data.

`python -m report` reads one, `python -m report compare` two.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from head.bundle.format import UnusableBundle, load_bundle, read_part, read_predictions


@dataclass(frozen=True)
class JudgedBundle:
    """The values of config.json, metrics.json and predictions.json."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    predictions: dict[str, Any]


def read_judged(folder: Path) -> JudgedBundle:
    """Read a bundle and its figures. Raises UnusableBundle, also where the figures were never made."""
    config = load_bundle(folder).config
    metrics = read_part(folder, "metrics.json")
    if metrics is None:
        raise UnusableBundle(f"{folder / 'metrics.json'}: not there; run `python -m report {folder}` first")
    return JudgedBundle(config, metrics, read_predictions(folder))
