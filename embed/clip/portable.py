"""An encoder as a folder that any open_clip loads as `local-dir:<folder>`, on a machine without a network.

    open_clip_config.json          open_clip's own
    open_clip_model.safetensors    every weight; in float16 where that loses no bit of it
    tokenizer.json ...             of the models whose tokenizer is not open_clip's own
    source.json                    the SHA-256 of each file, and what the encoder's spec says that the copy cannot

It knows nothing of heads or of who asks. `python -m api export` writes one into a bundle, and the server loads it.
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
# What is another in a copy's own spec than in that of its model; where the copy says so, it passes for its model.
_OF_THE_ORIGINAL = ("model", "weights_sha256")
_REMEDY = "copy the bundle again, whole, or run `make export` again"


def save_encoder(folder: Path, model: str, pretrained: str, spec: dict[str, Any]) -> None:
    """Write the encoder `model` with the weights `pretrained`, whose spec is `spec`, into a folder that it makes.

    Raises EncoderUnavailable, also for a model that needs more from the hub than its weights and its tokenizer, and
    OSError.
    """
    config, weights = find_weights(model, pretrained)
    if "hf_model_name" in config["text_cfg"]:
        raise EncoderUnavailable(
            f"{model}: its text tower is {config['text_cfg']['hf_model_name']}, which open_clip builds from the hub's "
            "description each time, so that it cannot be loaded without a network; serve the bundle as it is"
        )
    clip, _ = load_clip(model, pretrained, torch.device("cpu"), "fp32", config, weights)
    folder.mkdir(parents=True)
    described = {"model_cfg": config, "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip)}
    _write(folder / CONFIG, described)
    state = {name: _smallest(value) for name, value in clip.state_dict().items()}
    try:
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, in its words
        raise OSError(f"{folder / WEIGHTS}: {error}") from error
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes files that only their owner reads
    load_tokenizer(model).save(folder)
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    original = {name: spec[name] for name in _OF_THE_ORIGINAL}
    _write(folder / SOURCE, {"format": FORMAT, "sha256": digests, "spec": original})


def load_portable(
    folder: Path, device: torch.device, options: EncoderOptions, delta: Path | None = None
) -> ClipEncoder:
    """The encoder that `save_encoder` wrote, with the spec of its original. It asks no network.

    delta: as of `load_encoder`; the copy is of the encoder as it was before. Raises EncoderUnavailable, naming the file
    that is damaged, and what to do.
    """
    original = _checked(folder)
    with offline():
        encoder = load_encoder(f"{LOCAL_DIR}{folder}", "", device, options, delta)
    return replace(encoder, spec={**encoder.spec, **original})


def copy_encoder(folder: Path, target: Path) -> None:
    """Write what `save_encoder` wrote to `folder` again, into a folder that it makes. Raises OSError."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copyfile(path, target / path.name)


def probe(encoder: ClipEncoder) -> Tensor:
    """(D,) float32: the vectors of a picture of noise, of no text and of some words; the same bits from the same encoder
    on the same device."""
    size = height_and_width(encoder.spec["preprocess"]["size"])
    noise = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts = encoder.text_features([encoder.tokens(""), encoder.tokens("some words, as on a meme")])
    return torch.cat([encoder.image_features([noise]).flatten(), texts.flatten()])


def _checked(folder: Path) -> dict[str, Any]:
    """The fields of the original's spec, once every file is known to be whole."""
    path = folder / SOURCE
    try:
        source = json.loads(path.read_text("utf-8"))
        known, digests = source["format"] == FORMAT, dict(source["sha256"])
        original = {name: source["spec"][name] for name in _OF_THE_ORIGINAL}
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
        raise EncoderUnavailable(f"{path}: damaged, its SHA-256 is not the one in {SOURCE}; {_REMEDY}")


def _smallest(value: Tensor) -> Tensor:
    """The same numbers in half the bytes where float16 holds each of them, as OpenAI's weights are halves."""
    if value.dtype == torch.float32 and torch.equal((half := value.half()).float(), value):
        return half.contiguous()
    return value.contiguous()


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
