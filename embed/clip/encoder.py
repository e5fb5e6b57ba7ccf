"""A frozen CLIP: pictures and texts in, vectors out, and the spec that says what made them.

It knows nothing of data sets, labels, HTTP or where vectors are kept. Loading goes through open_clip's own factory:
a model name with a pretrained tag or a local checkpoint file, `local-dir:<folder>`, or `hf-hub:<org/repo>`. What
fine-tuning changed of it is added as it is loaded (see `embed.clip.delta`).
"""

import json
import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from torch import Tensor, nn

from cache import file_digest, limit_threads
from embed.base.errors import first_line
from embed.clip.delta import apply_delta
from embed.clip.hardware import choose_precision, has_products
from embed.clip.options import LOCAL_DIR, EncoderOptions, library_versions
from embed.clip.preprocessor import Preprocessor, height_and_width, resize_only
from embed.clip.tokenizer import Tokenizer, load_tokenizer, missing_package
from embed.clip.towers import Tower, image_tower, text_tower
from embed.clip.weights import EncoderUnavailable, find_weights

# More than keeps any GPU busy on pictures of 224 pixels; the job halves it until it fits.
_GPU_BATCH = 512
# Enough for a GPU to be busy with, and few enough to be of like length.
_GPU_TEXTS = 128
# Texts that are sorted by length together, in groups that keep a core busy.
_GROUPS = 8
_CPU = torch.device("cpu")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_LOG = logging.getLogger("embed.clip.encoder")


@dataclass(frozen=True)
class ClipEncoder(Preprocessor):
    """A loaded model with its own preprocessing and tokenizer; its vectors are not normalised unless the model does.

    image_tower: (N, 3, H, W) -> (N, D); text_tower: (N, L) -> (N, D); mean, std: (3, 1, 1), of the model's pixels;
    spec: see `cache.store.spec`; weights: the file they came from.
    """

    image_tower: Tower
    text_tower: Tower
    mean: Tensor
    std: Tensor
    device: torch.device
    spec: dict[str, Any]
    weights: Path

    def batch_size(self, kind: str) -> int:
        """How many items the batch job should hand over at a time, of "image" or "text"."""
        if self.device.type == "cuda":
            return _GPU_BATCH
        return self.image_tower.batch_size if kind == "image" else _GROUPS * self.text_tower.batch_size

    @torch.inference_mode()
    def image_features(self, pixels: Sequence[Tensor]) -> Tensor:
        """N pictures of (H, W, 3) uint8 -> (N, D) float32 on the encoder's device.

        The one way, for the batch job and the server. Bytes go to the device and become numbers there.
        """
        batch = self._sent(torch.stack(list(pixels))).permute(0, 3, 1, 2)
        return self.image_tower(batch.float().div_(255).sub_(self.mean).div_(self.std))

    @torch.inference_mode()
    def text_features(self, tokens: Sequence[Tensor]) -> Tensor:
        """N texts of (P, L) int64 -> (N, D) float32 on the encoder's device: the mean over each text's rows."""
        rows = torch.cat(list(tokens))
        vectors = self._in_order_of_length(self._sent(rows), (rows != 0).sum(dim=1).argsort())
        counts = [len(rows) for rows in tokens]
        if max(counts) == 1:
            return vectors
        return torch.stack([part.mean(dim=0) for part in vectors.split(counts)])

    def _in_order_of_length(self, rows: Tensor, order: Tensor) -> Tensor:
        """(R, L) -> (R, D): texts of like length together, since a batch is as long as its longest."""
        batch_size = _GPU_TEXTS if self.device.type == "cuda" else self.text_tower.batch_size
        parts = [self.text_tower(rows[part]) for part in order.to(rows.device).split(batch_size)]
        return torch.cat(parts)[order.argsort().to(rows.device)]

    def _sent(self, batch: Tensor) -> Tensor:
        """On the device, through pinned memory where that lets the copy overlap the GPU's work."""
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch


def load_encoder(
    model: str, pretrained: str, device: torch.device, options: EncoderOptions, delta: Path | None = None
) -> ClipEncoder:
    """Load `model` with the weights `pretrained` (a tag or a file; "" for local-dir: and hf-hub: models).

    The weights are rounded to the precision; the products are made in it where the device has instructions for that, and
    in float32 elsewhere, under the same spec. delta: what fine-tuning changed of the weights, a file of `embed.clip.delta`;
    the spec then has its SHA-256. Raises EncoderUnavailable with what to type instead.
    """
    limit_threads()
    # TF32, torch's default for convolutions on a GPU, changes vectors by 1e-3; the spec promises float32.
    torch.backends.cudnn.allow_tf32 = False
    precision = choose_precision(options.precision, device)
    config, weights = find_weights(model, pretrained)
    tokenizer = load_tokenizer(model, options.long_text)
    clip, transform = load_clip(model, pretrained, device, precision, config, weights)
    tuned = {}
    if delta is not None:
        # A change of less than half a step of a rounded weight would be lost, so it is added first and rounded once.
        whole = clip if precision == "fp32" else load_clip(model, pretrained, _CPU, "fp32", config, weights)[0]
        tuned["delta_sha256"] = apply_delta(whole, delta)
        if whole is not clip:
            clip.load_state_dict(whole.state_dict())
    native = has_products(precision, device)
    if not native:
        _LOG.warning("on this %s products of %s weights are made in float32", device.type, precision)
        clip.float()
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    dtype = _DTYPES[precision if native else "fp32"]
    image = image_tower(clip, options.features, dtype).eval()
    text = text_tower(clip, options.features, dtype).eval()
    # open_clip's CoCa does not run in halves, and must not have their spec where float32 stands in for them
    if precision != "fp32" and (
        isinstance(clip, CoCa) or not _runs(image, text, preprocess["size"], tokenizer, device)
    ):
        if options.precision != "auto":
            raise EncoderUnavailable(f"open_clip cannot run {model} in {precision}; use --precision fp32")
        return load_encoder(model, pretrained, device, replace(options, precision="fp32"), delta)
    spec = {
        **_spec(model, config, weights),
        **tuned,
        "preprocess": preprocess,
        "tokenizer": {**tokenizer.spec(), "ftfy": library_versions()["ftfy"]},
        "feature": options.features,
        # how many of the last columns lie in the space that both towers share
        **({"joint": config["embed_dim"]} if options.features == "both" else {}),
        "dtype": str(_DTYPES[precision]).removeprefix("torch."),
    }
    return ClipEncoder(
        image_tower=image,
        text_tower=text,
        resize=resize_only(transform),
        mean=torch.tensor(preprocess["mean"], device=device).view(3, 1, 1),
        std=torch.tensor(preprocess["std"], device=device).view(3, 1, 1),
        tokenizer=tokenizer,
        device=device,
        spec=json.loads(json.dumps(spec)),  # as it comes back from disk: lists for tuples
        weights=weights,
    )


@torch.inference_mode()
def _runs(
    image: nn.Module, text: nn.Module, size: int | Sequence[int], tokenizer: Tokenizer, device: torch.device
) -> bool:
    """Whether both towers run in their precision."""
    try:
        image(torch.zeros(1, 3, *height_and_width(size), device=device))
        text(tokenizer.rows("").to(device))
    except RuntimeError:
        return False
    return True


def load_clip(
    model: str, pretrained: str, device: torch.device, precision: str, config: dict[str, Any], weights: Path
) -> tuple[nn.Module, Any]:
    """The model in eval mode and open_clip's transform for it. Raises EncoderUnavailable."""
    try:
        clip, _, transform = open_clip.create_model_and_transforms(
            model,
            pretrained=pretrained or None,
            device=device,
            precision=precision,
            force_quick_gelu=bool(config.get("quick_gelu")),
        )
    except ImportError as error:
        raise EncoderUnavailable(missing_package(model, error)) from error
    # A file that is not this model's weights leads open_clip into anything from AssertionError to KeyError.
    except Exception as error:
        raise EncoderUnavailable(f"{weights} could not be loaded as weights of {model}: {_reason(error)}") from error
    return clip.eval().requires_grad_(False), transform


def _reason(error: Exception) -> str:
    """torch's own words for a foreign pickle, and for a program, tell the user to load it unsafely."""
    if "TorchScript" in str(error):
        return "a TorchScript program, as OpenAI's own .pt files are; PRETRAINED=openai fetches the same weights alone"
    return "not a file of weights" if isinstance(error, pickle.UnpicklingError) else first_line(error)


def _spec(model: str, config: dict[str, Any], weights: Path) -> dict[str, Any]:
    versions = library_versions()
    return {
        "format": 1,
        "open_clip": versions["open_clip_torch"],
        # a folder's place on disk does not change a vector; its config and weights do
        "model": "local-dir" if model.startswith(LOCAL_DIR) else model,
        "model_config": config,
        "weights_sha256": file_digest(weights),
        "decoder": {"name": "Pillow", "version": versions["pillow"], "frame": "first", "exif_rotation": False},
    }
