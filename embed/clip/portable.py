"""Save and load an encoder as a folder that open_clip loads offline, as `local-dir:<folder>`.

Files:
    open_clip_config.json          open_clip's config
    open_clip_model.safetensors    all weights, in float16 where that is lossless
    tokenizer.json ...             only for models with another tokenizer than open_clip's
    source.json                    the SHA-256 of each file, and the original's fields of the spec
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cache import file_digest
from embed.clip.encoder import ClipEncoder, load_clip, load_encoder
from embed.clip.options import LOCAL_DIR, EncoderOptions
from embed.clip.preprocessor import height_and_width
from embed.clip.tokenizer import load_tokenizer
from embed.clip.weights import EncoderUnavailable, find_weights, offline

FORMAT = 1
CONFIG, WEIGHTS, SOURCE = "open_clip_config.json", "open_clip_model.safetensors", "source.json"
# Spec fields in which a copy differs from its original; source.json holds the original's, so that the specs are equal.
_ORIGINAL_FIELDS = ("model", "weights_sha256")
_REMEDY = "copy the bundle again, whole, or run `make export` again"


def save_encoder(folder: Path, model: str, pretrained: str, spec: dict[str, Any]) -> None:
    """Write the encoder `model` with the weights `pretrained` and the spec `spec` into a new folder.

    Raises OSError, and EncoderUnavailable, also for a model whose text tower open_clip builds from the hub.
    """
    config, weights = find_weights(model, pretrained)
    if "hf_model_name" in config["text_cfg"]:
        raise EncoderUnavailable(
            f"{model}: its text tower is {config['text_cfg']['hf_model_name']}, which open_clip builds from the hub's "
            "config at every load, so it cannot be loaded offline; serve the bundle as it is"
        )
    clip, _ = load_clip(model, pretrained, torch.device("cpu"), "fp32", config, weights)
    folder.mkdir(parents=True)
    described = {"model_cfg": config, "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip)}
    _write(folder / CONFIG, described)
    state = {name: _smallest(value) for name, value in clip.state_dict().items()}
    try:
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # e.g. a full disk
        raise OSError(f"{folder / WEIGHTS}: {error}") from error
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes files readable by their owner only
    load_tokenizer(model).save(folder)
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    original = {name: spec[name] for name in _ORIGINAL_FIELDS}
    _write(folder / SOURCE, {"format": FORMAT, "sha256": digests, "spec": original})


def load_portable(
    folder: Path, device: torch.device, options: EncoderOptions, delta: Path | None = None
) -> ClipEncoder:
    """Load the encoder that `save_encoder` wrote, offline and with its original's spec.

    delta: as of `load_encoder`; the folder holds the encoder before fine-tuning. Raises EncoderUnavailable, naming the
    missing or damaged file and the remedy.
    """
    original = _checked(folder)
    with offline():
        encoder = load_encoder(f"{LOCAL_DIR}{folder}", "", device, options, delta)
    return replace(encoder, spec={**encoder.spec, **original})


def copy_encoder(folder: Path, target: Path) -> None:
    """Copy the files of `save_encoder` from `folder` to the new folder `target`. Raises OSError."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copyfile(path, target / path.name)


def probe(encoder: ClipEncoder) -> Tensor:
    """1-D float32, vectors of noise, an empty and a short text; bit-identical for an encoder on the same device."""
    size = height_and_width(encoder.spec["preprocess"]["size"])
    noise = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts = encoder.text_features([encoder.tokens(""), encoder.tokens("some words, as on a meme")])
    return torch.cat([encoder.image_features([noise]).flatten(), texts.flatten()])


def _checked(folder: Path) -> dict[str, Any]:
    """The original's spec fields, after checking the SHA-256 of every file."""
    path = folder / SOURCE
    try:
        source = json.loads(path.read_text("utf-8"))
        known, digests = source["format"] == FORMAT, dict(source["sha256"])
        original = {name: source["spec"][name] for name in _ORIGINAL_FIELDS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderUnavailable(f"{path}: cannot be read ({error!r}); {_REMEDY}") from error
    if not known:
        raise EncoderUnavailable(f"{path}: format {source['format']!r}, expected {FORMAT}; run `make export` again")
    for name in sorted({CONFIG, WEIGHTS, *digests}):
        _check(folder / name, digests.get(name))
    return original


def _check(path: Path, wanted: str | None) -> None:
    try:
        whole = file_digest(path) == wanted
    except OSError as error:
        raise EncoderUnavailable(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    if not whole:
        raise EncoderUnavailable(f"{path}: damaged, its SHA-256 differs from {SOURCE}; {_REMEDY}")


def _smallest(value: Tensor) -> Tensor:
    """The tensor as float16 if that is lossless, as for OpenAI's weights."""
    if value.dtype == torch.float32 and torch.equal((half := value.half()).float(), value):
        return half.contiguous()
    return value.contiguous()


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
