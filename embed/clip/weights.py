"""Find or download an encoder's config and checkpoint, without loading the model."""

import difflib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants as hub_constants
from huggingface_hub import get_session
from open_clip.factory import HF_HUB_PREFIX, _find_checkpoint_in_dir
from open_clip.pretrained import download_pretrained_from_hf

from cache import names_a_file
from embed.base.errors import first_line
from embed.clip.options import LOCAL_DIR

_LOCAL_FILE_HINT = "give a local checkpoint with PRETRAINED=<file> (--pretrained <file>)"
# Enough for a slow network; without one, open_clip's downloads retry for most of a minute.
_HUB_TIMEOUT_S = 5


class EncoderUnavailable(ValueError):
    """The encoder cannot be loaded: unknown name, weights that are unavailable or do not fit, or a missing device."""


def find_weights(model: str, pretrained: str) -> tuple[dict[str, Any], Path]:
    """The model's config, with the weights' QuickGELU setting, and the local checkpoint file.

    Raises EncoderUnavailable with a remedy.
    """
    if model.startswith(LOCAL_DIR):
        return _find_local(Path(model.removeprefix(LOCAL_DIR)), pretrained)
    config = find_config(model)
    if model.startswith(HF_HUB_PREFIX):
        return config, Path(_fetched(model, lambda: download_pretrained_from_hf(model.removeprefix(HF_HUB_PREFIX))))
    if names_a_file(pretrained):
        return config, Path(pretrained)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        there = f"; the file of this name is ./{pretrained}" if os.path.isfile(pretrained) else ""
        raise EncoderUnavailable(
            f"PRETRAINED={pretrained!r} is neither a file nor weights published for {model} (those are: {tags}){there}"
        )
    # open_clip 3.3 only warns if the tag needs QuickGELU and the config has none; the vectors would be wrong
    config["quick_gelu"] = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    go_offline_unless_reachable()
    return config, Path(_fetched(f"{model} {pretrained}", lambda: open_clip.download_pretrained(tag)))


def find_config(model: str) -> dict[str, Any]:
    """The model's config, without its weights. Raises EncoderUnavailable."""
    if model.startswith(LOCAL_DIR):
        return _local_config(Path(model.removeprefix(LOCAL_DIR)))
    if model.startswith(HF_HUB_PREFIX):
        go_offline_unless_reachable()
        return _fetched(model, lambda: open_clip.get_model_config(model))
    config = open_clip.get_model_config(model)
    if config is None:
        raise EncoderUnavailable(f"{model}: no such open_clip model{_near(model, open_clip.list_models())}")
    return config


def go_offline_unless_reachable() -> None:
    """Send the hub one request; if it fails, use only files already downloaded from now on."""
    if hub_constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(hub_constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    # the HTTP library, and so its exceptions, has changed between versions
    except Exception:  # noqa: BLE001
        hub_constants.HF_HUB_OFFLINE = True


@contextmanager
def offline() -> Iterator[None]:
    """No requests to the hub inside this context."""
    before, hub_constants.HF_HUB_OFFLINE = hub_constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before


def _find_local(folder: Path, pretrained: str) -> tuple[dict[str, Any], Path]:
    if pretrained:
        raise EncoderUnavailable(f"a local-dir: model brings its own weights; leave out PRETRAINED={pretrained}")
    config = _local_config(folder)
    checkpoint = _find_checkpoint_in_dir(folder)
    if checkpoint is None:
        raise EncoderUnavailable(_no_encoder(folder))
    return config, Path(checkpoint)


def _local_config(folder: Path) -> dict[str, Any]:
    config_file = folder / "open_clip_config.json"
    if not config_file.is_file():
        raise EncoderUnavailable(_no_encoder(folder))
    try:
        return json.loads(config_file.read_text("utf-8"))["model_cfg"]
    except (json.JSONDecodeError, KeyError) as error:
        raise EncoderUnavailable(f"{config_file}: not an open_clip config ({error!r})") from error


def _no_encoder(folder: Path) -> str:
    return (
        f"{folder}: no encoder there (open_clip_config.json and open_clip_model.safetensors); "
        "give its folder with MODEL=local-dir:<folder> (--model local-dir:<folder>)"
    )


def _fetched(what: str, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:
        reason = "the hub does not answer" if hub_constants.HF_HUB_OFFLINE else first_line(error)
        raise EncoderUnavailable(
            f"the weights of {what} could not be fetched ({reason}); {_LOCAL_FILE_HINT}"
        ) from error


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"; near it: {', '.join(close)}" if close else ""
