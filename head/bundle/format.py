"""The model bundle: a folder with all that serving and the report need; nothing is pickled.

config.json        heads, encoder, feature spec, calibration, threshold, study, versions
head.safetensors   the heads' weights and scalings
predictions.json   every method's probabilities: cross-fitted, and of test once the report has evaluated it
encoder_delta.safetensors   of a fine-tuned one, the change of the encoder's weights
metrics.json, gallery.json, report.html    written by `python -m report`
"""

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cache import DEMO_DATA, demo_notice, folder_replaced, write_bytes_atomically
from head.judge.calibration import Calibration
from head.model.ensemble import HeadEnsemble
from head.model.kinds import describe_head, rebuild_head

FORMAT = 2
LABELS = ["non-offensive", "offensive"]
Answer = Literal["offensive", "non-offensive", "review"]
# Folds times repeats; beyond it config.json is damaged.
_MOST_MEMBERS = 10_000
# Of weights, and of the nodes of trees.
_DTYPES = (torch.float32, torch.int32)
_LIBRARIES = ("torch", "numpy", "scikit-learn", "optuna", "safetensors", "h5py")
# Entries of config.json that determine predictions, and with the weights the version.
_SERVED = ("name", "shipped", "parts", "encoder", "spec", "labels", "calibration", "threshold", "review", "twins")


class UnusableBundle(ValueError):
    """A missing or damaged model bundle, or one of another format."""


@dataclass(frozen=True)
class Bundle:
    """The ensembles by method, in eval mode, and the contents of config.json."""

    ensembles: dict[str, HeadEnsemble]
    config: dict[str, Any]

    @property
    def shipped(self) -> HeadEnsemble:
        """The ensemble that is served."""
        return self.ensembles[self.config["shipped"]]

    @property
    def calibration(self) -> Calibration:
        """The shipped method's calibration."""
        return Calibration(**self.config["calibration"])


def bundle_files(
    ensembles: dict[str, HeadEnsemble], settings: dict[str, Any], predictions: dict[str, Any], further: dict[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The config.json of a new bundle, and {name: bytes} of all its files.

    settings: name, shipped, encoder, spec, calibration, threshold, review and what a report shows, as JSON values;
    further: {name: bytes} of additional files. Raises ValueError for NaN or infinite numbers.
    """
    state, twins = _state(ensembles)
    weights = save(state)
    config = {**settings, "format": FORMAT, "labels": LABELS, "twins": twins}
    config["parts"] = {name: _parts(ensemble) for name, ensemble in ensembles.items()}
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config["version"] = _version(config)
    config["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    config["versions"] = _versions()
    files = {
        "head.safetensors": weights,
        "predictions.json": _as_json(predictions),
        "config.json": _as_json(config),
        **further,
    }
    return config, files


def write_bundle(folder: Path, files: dict[str, bytes]) -> None:
    """Write a bundle's files to `folder`, replacing an older one atomically once the new one is on disk.

    A kill between the last two renames leaves the old bundle beside `folder`, under a name ending in `.old`. Raises OSError.
    """
    with folder_replaced(folder) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle. Raises UnusableBundle, naming the file and the remedy."""
    config = read_config(folder)
    try:
        ensembles = {name: _empty(parts) for name, parts in config["parts"].items()}
        _check_config(config, ensembles)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableBundle(
            f"{folder / 'config.json'}: {error!r} is missing or unfit; run `python -m head tune` again"
        ) from error
    _load_weights(ensembles, folder / "head.safetensors", config)
    return Bundle({name: ensemble.eval() for name, ensemble in ensembles.items()}, config)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, of this format. Raises UnusableBundle."""
    config = read_part(folder, "config.json")
    if config is None:
        raise UnusableBundle(f"{folder / 'config.json'}: no such file; `make tune` writes a model bundle")
    if config.get("format") != FORMAT:
        raise UnusableBundle(
            f"{folder / 'config.json'}: format {config.get('format')!r}, expected {FORMAT}; run `make tune` again"
        )
    return config


def answer_of(probability: float, threshold: float, review: dict[str, Any] | None) -> Answer:
    """What a meme is called; review: the entry of config.json, None for no review band."""
    if review is not None and review["low"] <= probability < review["high"]:
        return "review"
    return "offensive" if probability >= threshold else "non-offensive"


def demo_notice_of(config: dict[str, Any]) -> str:
    """`cache.demo_notice` of a bundle's config.json: the notice where the demo encoder met other data, else ""."""
    data = config.get("data")
    data = data if isinstance(data, dict) else {}
    # bundles older than `content` have only the folder as it was named
    if "content" not in data and Path(str(data.get("source"))).parts[-2:] == Path(DEMO_DATA).parts:
        return ""
    return demo_notice(config["spec"], str(data.get("content")))


def read_part(folder: Path, name: str) -> dict[str, Any] | None:
    """One of a bundle's JSON files, None where it is absent. Raises UnusableBundle where it is damaged."""
    path = folder / name
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableBundle(f"{path}: cannot be read ({error.strerror}); `make tune` writes a model bundle") from error
    except (ValueError, RecursionError) as error:
        raise UnusableBundle(f"{path}: not JSON ({error}); run `make tune` again") from error
    if not isinstance(value, dict):
        raise UnusableBundle(f"{path}: expected a JSON object; run `make tune` again")
    return value


def read_predictions(folder: Path) -> dict[str, Any]:
    """predictions.json. Raises UnusableBundle, also if it is absent."""
    predictions = read_part(folder, "predictions.json")
    if predictions is None:
        raise UnusableBundle(
            f"{folder / 'predictions.json'}: missing; exports leave it out, so give the bundle that the export was made from"
        )
    return predictions


def write_part(folder: Path, name: str, value: dict[str, Any]) -> None:
    """Write one of a bundle's JSON files. Raises OSError, and ValueError for NaN or infinite numbers."""
    write_bytes_atomically(folder / name, _as_json(value))


def _as_json(value: dict[str, Any]) -> bytes:
    """The bytes of a bundle's JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogateescape")


def _state(ensembles: dict[str, HeadEnsemble]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """{name: tensor}, and {name: name of an equal tensor}: heads of the same folds share their scalings, most of a small head's
    bytes."""
    state: dict[str, torch.Tensor] = {}
    twins: dict[str, str] = {}
    first: dict[tuple[str, ...], str] = {}
    for method, ensemble in ensembles.items():
        for field, value in ensemble.heads.state_dict().items():
            tensor = value.detach().cpu().contiguous()
            content = (str(tensor.shape), hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
            name = f"{method}/{field}"
            if first.setdefault(content, name) == name:
                state[name] = tensor
            else:
                twins[name] = first[content]
    return state, twins


def _parts(ensemble: HeadEnsemble) -> list[dict[str, Any]]:
    return [{**describe_head(head), "weight": weight} for head, weight in zip(ensemble.heads, ensemble.weights)]


def _empty(parts: Sequence[dict[str, Any]]) -> HeadEnsemble:
    """The heads on the meta device, so that a config of heads larger than memory is harmless."""
    for part in parts:
        members, weight = part["members"], part["weight"]
        if not isinstance(members, int) or not 1 <= members <= _MOST_MEMBERS:
            raise ValueError(f"members: expected a whole number from 1 to {_MOST_MEMBERS}, got {members!r}")
        if not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ValueError(f"weight: expected a number, got {weight!r}")
    if not parts:
        raise ValueError("parts: expected at least one head")
    with torch.device("meta"):
        heads = [rebuild_head(part) for part in parts]
    return HeadEnsemble(heads, [part["weight"] for part in parts])


def _check_config(config: dict[str, Any], ensembles: dict[str, HeadEnsemble]) -> None:
    threshold = config["threshold"]
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
    Calibration(**config["calibration"])
    if config["shipped"] not in ensembles:
        raise ValueError(f"shipped: expected one of {', '.join(ensembles)}, got {config['shipped']!r}")
    if config["review"] is not None and not 0 <= config["review"]["low"] <= config["review"]["high"] <= 1:
        raise ValueError(f"review: expected 0 <= low <= high <= 1, got {config['review']!r}")
    if config["labels"] != LABELS:
        raise ValueError(f"labels: expected {LABELS}, got {config['labels']!r}")
    for name, kind in (("name", str), ("version", str), ("encoder", dict), ("spec", dict)):
        if not isinstance(config[name], kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {config[name]!r}")
    for name in ("model", "pretrained"):
        if not isinstance(config["encoder"][name], str):
            raise TypeError(f"encoder.{name}: expected str, got {config['encoder'][name]!r}")


def _load_weights(ensembles: dict[str, HeadEnsemble], path: Path, config: dict[str, Any]) -> None:
    try:
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != config.get("weights_sha256"):
            raise UnusableBundle(f"{path}: not the weights of config.json; copy the bundle again, whole")
        state = load(weights)
        state |= {name: state[twin] for name, twin in config["twins"].items()}
        for method, ensemble in ensembles.items():
            prefix = f"{method}/"
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            ensemble.heads.load_state_dict(own, assign=True)
    except OSError as error:
        raise UnusableBundle(f"{path}: cannot be read ({error.strerror}); copy the bundle again, whole") from error
    except (SafetensorError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UnusableBundle(
            f"{path}: the weights do not fit the heads of config.json ({error}); run `make tune` again"
        ) from error
    if not all(value.dtype in _DTYPES and torch.isfinite(value).all() for value in state.values()):
        raise UnusableBundle(f"{path}: the weights hold NaN, infinite or no float32 numbers; run `make tune` again")


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
