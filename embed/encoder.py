"""A frozen CLIP: pictures and texts in, vectors out, and the spec that says what made them.

It knows nothing of data sets, labels, HTTP or where vectors are kept. Loading goes through open_clip's own factory:
a model name with a pretrained tag or a local checkpoint file, `local-dir:<folder>`, or `hf-hub:<org/repo>`.
"""

import difflib
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import get_session
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX, _find_checkpoint_in_dir
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor, nn

from cache import file_digest, text_key
from embed.pictures import UnreadableImage, decode_picture
from embed.recall import library_versions

_LOCAL_FILE_HINT = "give a local checkpoint with PRETRAINED=<file> (--pretrained <file>)"
# Long enough for a slow line; without a line, open_clip's own downloads retry for most of a minute.
_HUB_TIMEOUT_S = 5


class EncoderUnavailable(ValueError):
    """The encoder cannot be had: unknown name, weights that cannot be fetched or do not fit."""


@dataclass(frozen=True)
class ClipEncoder:
    """A loaded model with its own preprocessing and tokenizer. `encode_*` return joint-space vectors, not normalised.

    clip: the open_clip model in eval mode on `device`; spec: see `cache.spec`; weights: the file they came from.
    """

    clip: nn.Module
    transform: Any
    tokenizer: Any
    context_length: int
    device: torch.device
    spec: dict[str, Any]
    weights: Path

    def pixels(self, data: bytes) -> Tensor:
        """Image bytes -> (3, H, W) float32, by open_clip's own transform. Raises UnreadableImage."""
        picture = decode_picture(data)
        try:
            return self.transform(picture)
        except (ValueError, OSError) as error:
            raise UnreadableImage(f"a picture of mode {picture.mode} that cannot be resized ({error})") from error

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, context_length) int64, cut to the context."""
        return self.tokenizer(list(texts))

    def token_count(self, text: str) -> int:
        """Tokens of a text before it is cut, start and end included."""
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(text)["input_ids"])  # open_clip's wrappers around transformers

    def image_features(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D) float32 on the encoder's device; the one way, for the batch job and the server."""
        return self.clip.encode_image(pixels.to(self.device)).float()

    def text_features(self, tokens: Tensor) -> Tensor:
        """(N, context_length) -> (N, D) float32 on the encoder's device."""
        return self.clip.encode_text(tokens.to(self.device)).float()

    def encode_images(self, pixels: Tensor) -> np.ndarray:
        """(N, 3, H, W) -> (N, D) float32, for the cache."""
        with torch.inference_mode():
            return self.image_features(pixels).cpu().numpy()

    def encode_texts(self, tokens: Tensor) -> np.ndarray:
        """(N, context_length) -> (N, D) float32, for the cache."""
        with torch.inference_mode():
            return self.text_features(tokens).cpu().numpy()


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for one of `embed.job.DEVICES`; auto takes the GPU when there is one.

    Raises EncoderUnavailable for a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise EncoderUnavailable("device cuda was asked for, and torch sees no CUDA GPU; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and available else "cpu")


def load_encoder(model: str, pretrained: str, device: torch.device) -> ClipEncoder:
    """Load `model` with the weights `pretrained` (a tag or a file; "" for local-dir: and hf-hub: models).

    Raises EncoderUnavailable with what to type instead.
    """
    # TF32, torch's default for convolutions on a GPU, changes vectors by 1e-3; the spec promises float32.
    torch.backends.cudnn.allow_tf32 = False
    config, weights = _resolve(model, pretrained)
    tokenizer = _load_tokenizer(model, config)
    try:
        clip, _, transform = open_clip.create_model_and_transforms(
            model, pretrained=pretrained or None, device=device, force_quick_gelu=bool(config.get("quick_gelu"))
        )
    except ImportError as error:
        raise EncoderUnavailable(_missing_package(model, error)) from error
    # A file that is not this model's weights leads open_clip into anything from AssertionError to KeyError.
    except Exception as error:
        # torch's own words for a foreign pickle tell the user to load it unsafely
        reason = "not a file of weights" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
        raise EncoderUnavailable(f"{weights} could not be loaded as weights of {model}: {reason}") from error
    clip.eval().requires_grad_(False)
    context_length = int(getattr(tokenizer, "context_length", None) or clip.context_length)
    spec = _spec(model, config, weights, clip, tokenizer, context_length)
    return ClipEncoder(clip, transform, tokenizer, context_length, device, spec, weights)


def _load_tokenizer(model: str, config: dict[str, Any]) -> Any:
    if "hf_tokenizer_name" in config["text_cfg"] and not model.startswith(LOCAL_DIR_PREFIX):
        _go_offline_unless_reachable()
    try:
        return open_clip.get_tokenizer(model)
    except ImportError as error:
        raise EncoderUnavailable(_missing_package(model, error)) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise EncoderUnavailable(f"{model}: its tokenizer could not be fetched ({_first_line(error)})") from error


def _missing_package(model: str, error: ImportError) -> str:
    return f"{model}: needs packages that are not installed ({error}); pip install transformers sentencepiece"


def _resolve(model: str, pretrained: str) -> tuple[dict[str, Any], Path]:
    """The model's config, with QuickGELU as the weights want it, and the local file of its weights."""
    if model.startswith(LOCAL_DIR_PREFIX):
        return _resolve_local(Path(model.removeprefix(LOCAL_DIR_PREFIX)), pretrained)
    if model.startswith(HF_HUB_PREFIX):
        _go_offline_unless_reachable()
        config = _fetched(model, lambda: open_clip.get_model_config(model))
        return config, Path(_fetched(model, lambda: download_pretrained_from_hf(model.removeprefix(HF_HUB_PREFIX))))
    config = open_clip.get_model_config(model)
    if config is None:
        raise EncoderUnavailable(f"{model}: no such open_clip model{_near(model, open_clip.list_models())}")
    if Path(pretrained).is_file():
        return config, Path(pretrained)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise EncoderUnavailable(
            f"PRETRAINED={pretrained!r} is neither a file nor weights published for {model} (those are: {tags})"
        )
    # In open_clip 3.3 a tag trained with QuickGELU on a config without it only warns; the vectors would be wrong.
    config["quick_gelu"] = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    _go_offline_unless_reachable()
    return config, Path(_fetched(f"{model} {pretrained}", lambda: open_clip.download_pretrained(tag)))


def _resolve_local(folder: Path, pretrained: str) -> tuple[dict[str, Any], Path]:
    if pretrained:
        raise EncoderUnavailable(f"a local-dir: model brings its own weights; leave out PRETRAINED={pretrained}")
    config_file = folder / "open_clip_config.json"
    checkpoint = _find_checkpoint_in_dir(folder) if folder.is_dir() else None
    if not config_file.is_file() or checkpoint is None:
        raise EncoderUnavailable(
            f"{folder}: no encoder there (open_clip_config.json and open_clip_model.safetensors); "
            "give its folder with MODEL=local-dir:<folder> (--model local-dir:<folder>)"
        )
    try:
        return json.loads(config_file.read_text("utf-8"))["model_cfg"], Path(checkpoint)
    except (json.JSONDecodeError, KeyError) as error:
        raise EncoderUnavailable(f"{config_file}: not an open_clip config ({error!r})") from error


def _fetched(what: str, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:
        reason = "the hub does not answer" if hub_constants.HF_HUB_OFFLINE else _first_line(error)
        raise EncoderUnavailable(
            f"the weights of {what} could not be fetched ({reason}); {_LOCAL_FILE_HINT}"
        ) from error


def _go_offline_unless_reachable() -> None:
    """Ask the hub once; without an answer, look only among the files already fetched, at once."""
    if hub_constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(hub_constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    # Whatever the HTTP library raises (it has changed between versions): no answer is no answer.
    except Exception:  # noqa: BLE001
        hub_constants.HF_HUB_OFFLINE = True


def _spec(
    model: str, config: dict[str, Any], weights: Path, clip: nn.Module, tokenizer: Any, context_length: int
) -> dict[str, Any]:
    versions = library_versions()
    spec = {
        "format": 1,
        "open_clip": versions["open_clip_torch"],
        # a folder's place on disk does not change a vector; its config and weights do
        "model": "local-dir" if model.startswith(LOCAL_DIR_PREFIX) else model,
        "model_config": config,
        "weights_sha256": file_digest(weights),
        "preprocess": open_clip.get_model_preprocess_cfg(clip),
        "decoder": {"name": "Pillow", "version": versions["pillow"], "frame": "first", "exif_rotation": False},
        "tokenizer": {
            "name": type(tokenizer).__name__,
            "context_length": context_length,
            "vocabulary_sha256": _vocabulary_digest(tokenizer),
            "ftfy": versions["ftfy"],
            "truncation": "first tokens, end token kept",
        },
        "feature": "projected",
        "dtype": "float32",
    }
    return json.loads(json.dumps(spec))  # as it comes back from disk: lists for tuples


def _vocabulary_digest(tokenizer: Any) -> str:
    simple = isinstance(tokenizer, open_clip.SimpleTokenizer)
    vocabulary: dict[str, int] = tokenizer.encoder if simple else tokenizer.tokenizer.get_vocab()
    return text_key(json.dumps(sorted(vocabulary.items())))


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"; near it: {', '.join(close)}" if close else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
