"""The model bundle: a folder with all that serving or reporting a head needs, and nothing pickled.

    config.json        head, encoder, feature spec, threshold, metrics, study, versions
    head.safetensors   the head's weights and standardisation
    predictions.json   probabilities of every method on validation and test
    report.html        written by `head.report`

Knows nothing of tuning or of CLIP. Written by `python -m head tune`, read by the server.
"""

import hashlib
import json
import platform
import shutil
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cache import write_bytes_atomically
from head.fusion import FusionHead, HeadConfig

FORMAT = 1
LABELS = ["non-offensive", "offensive"]
_LIBRARIES = ("torch", "numpy", "scikit-learn", "optuna", "safetensors", "h5py")
# What decides a prediction, beside the weights. The date and the figures do not change the version.
_SERVED = ("name", "head", "encoder", "spec", "labels", "threshold", "calibration")


class UnusableBundle(ValueError):
    """No model bundle where one was expected, a damaged one, or one of another format."""


@dataclass(frozen=True)
class Bundle:
    """A head in eval mode, and its config as in config.json."""

    head: FusionHead
    config: dict[str, Any]


def save_bundle(folder: Path, head: FusionHead, settings: dict[str, Any], predictions: dict[str, Any]) -> Bundle:
    """Write a bundle to `folder`, replacing an older one only when the new one is whole on disk.

    settings: name, train, encoder, spec, threshold, metrics, data, study, seed, as JSON values. A kill between the two
    last renames leaves the old bundle beside `folder`, under a name that ends in `.old`. Raises OSError, and
    ValueError for a number that JSON does not have.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    weights = save(state)
    config = {**settings, "format": FORMAT, "head": asdict(head.config), "labels": LABELS, "calibration": None}
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config["version"] = _version(config)
    config["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    config["versions"] = _versions()
    files = {"head.safetensors": weights, "predictions.json": _json(predictions), "config.json": _json(config)}
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        for name, data in files.items():
            write_bytes_atomically(staging / name, data)
        _replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle(head, config)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle. Raises UnusableBundle, naming the file and what to do."""
    config = _read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise UnusableBundle(
            f"{folder / 'config.json'}: format {config.get('format')!r}, expected {FORMAT}; "
            "run `python -m head tune` again"
        )
    try:
        head = FusionHead(HeadConfig(**config["head"]))
        _check_config(config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: more memory than there is
        raise UnusableBundle(
            f"{folder / 'config.json'}: {error!r} is missing or unfit; run `python -m head tune` again"
        ) from error
    _load_weights(head, folder / "head.safetensors", config.get("weights_sha256"))
    return Bundle(head.eval(), config)


def read_predictions(folder: Path) -> dict[str, Any]:
    """{split: {ids, label, probability: {method: [N]}}}. Raises UnusableBundle."""
    return _read_json(folder / "predictions.json")


def _check_config(config: dict[str, Any]) -> None:
    threshold = config["threshold"]
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
    if config["labels"] != LABELS:
        raise ValueError(f"labels: expected {LABELS}, got {config['labels']!r}")
    for name, kind in (("name", str), ("version", str), ("encoder", dict), ("spec", dict)):
        if not isinstance(config[name], kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {config[name]!r}")
    for name in ("model", "pretrained"):
        if not isinstance(config["encoder"][name], str):
            raise TypeError(f"encoder.{name}: expected str, got {config['encoder'][name]!r}")


def _load_weights(head: FusionHead, path: Path, digest: str | None) -> None:
    try:
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != digest:
            raise UnusableBundle(f"{path}: not the weights of config.json; copy the bundle again, whole")
        head.load_state_dict(load(weights))
    except OSError as error:
        raise UnusableBundle(f"{path}: cannot be read ({error.strerror}); copy the bundle again, whole") from error
    except (SafetensorError, RuntimeError) as error:
        raise UnusableBundle(
            f"{path}: the weights do not fit the head of config.json ({error}); run `python -m head tune` again"
        ) from error
    if not all(torch.isfinite(value).all() for value in head.state_dict().values()):
        raise UnusableBundle(f"{path}: the weights hold NaN or infinite numbers; run `python -m head tune` again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UnusableBundle(
            f"{path}: cannot be read ({error.strerror}); `python -m head tune` writes a model bundle"
        ) from error
    except ValueError as error:
        raise UnusableBundle(f"{path}: not JSON ({error}); run `python -m head tune` again") from error
    if not isinstance(value, dict):
        raise UnusableBundle(f"{path}: expected a JSON object; run `python -m head tune` again")
    return value


def _replace(staging: Path, folder: Path) -> None:
    """A folder cannot be renamed over another that holds files, so the old one steps aside first."""
    retired = staging.with_suffix(".old")
    if not folder.exists():
        staging.rename(folder)
        return
    folder.rename(retired)
    try:
        staging.rename(folder)
    except OSError:
        retired.rename(folder)
        raise
    shutil.rmtree(retired)


def _version(config: dict[str, Any]) -> str:
    served = {name: config[name] for name in (*_SERVED, "weights_sha256")}
    return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:12]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogateescape")
