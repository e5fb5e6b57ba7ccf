"""Load a frozen CLIP model, encode pictures and texts, and derive the feature spec.

open_clip's factory loads a model name with a pretrained tag or a local checkpoint file, `local-dir:<folder>`, or
`hf-hub:<org/repo>`. A fine-tuning delta is applied at loading (see `embed.clip.delta`).
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
from embed.base.memory import TooLittleMemory, is_out_of_memory
from embed.clip.delta import apply_delta
from embed.clip.hardware import choose_precision, has_products
from embed.clip.options import LOCAL_DIR, EncoderOptions
from embed.clip.preprocessor import Preprocessor, height_and_width, preprocessing_fields, resize_only
from embed.clip.tokenizer import Tokenizer, load_tokenizer, missing_package
from embed.clip.towers import Tower, image_tower, text_tower
from embed.clip.weights import EncoderUnavailable, find_weights

# Items per GPU batch: more than any GPU needs at 224 pixels; the job halves it until it fits into memory.
_GPU_BATCH = 512
# Texts per forward pass on a GPU: enough to use it fully, few enough to be of similar length.
_GPU_TEXTS = 128
# Forward passes per CPU batch of texts, which is sorted by length.
_TEXT_BATCHES = 8
_CPU = torch.device("cpu")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_LOG = logging.getLogger("embed.clip.encoder")


@dataclass(frozen=True)
class ClipEncoder(Preprocessor):
    """A loaded model with its preprocessing and tokenizer. Vectors are not normalised, unless by the model itself.

    image_tower: (N, 3, H, W) float32 -> (N, D) float32; text_tower: (N, L) int64 -> (N, D) float32; mean, std:
    (3, 1, 1) float32, of pixels in [0, 1]; spec: see `cache.store.spec`; weights: the checkpoint file.
    """

    image_tower: Tower
    text_tower: Tower
    mean: Tensor
    std: Tensor
    device: torch.device
    spec: dict[str, Any]
    weights: Path

    def batch_size(self, kind: str) -> int:
        """Items per batch of the embedding job, for kind "image" or "text"."""
        if self.device.type == "cuda":
            return _GPU_BATCH
        return self.image_tower.batch_size if kind == "image" else _TEXT_BATCHES * self.text_tower.batch_size

    @torch.inference_mode()
    def image_features(self, pixels: Sequence[Tensor]) -> Tensor:
        """N pictures of (H, W, 3) uint8 -> (N, D) float32 on the device. On a GPU raises torch.OutOfMemoryError."""
        # transferred as uint8, a quarter of the bytes of float32
        batch = self._to_device(self._stack(pixels)).permute(0, 3, 1, 2)
        return self.image_tower(batch.float().div_(255).sub_(self.mean).div_(self.std))

    @torch.inference_mode()
    def text_features(self, tokens: Sequence[Tensor]) -> Tensor:
        """N texts of (P, L) int64 -> (N, D) float32 on the device, the mean over P. Raises as `image_features`."""
        rows = torch.cat(list(tokens))
        vectors = self._by_length(rows, (rows != 0).sum(dim=1).argsort())
        counts = [len(rows) for rows in tokens]
        if max(counts) == 1:
            return vectors
        return torch.stack([part.mean(dim=0) for part in vectors.split(counts)])

    def _by_length(self, rows: Tensor, order: Tensor) -> Tensor:
        """(R, L) -> (R, D), in batches of similar length, since the longest text sets a batch's cost."""
        batch_size = _GPU_TEXTS if self.device.type == "cuda" else self.text_tower.batch_size
        # sorted and cut here, since asking a GPU for a length would wait for all that it has to do
        batches = (self.text_tower.cut(rows[part]) for part in order.split(batch_size))
        parts = [self.text_tower(self._to_device(batch)) for batch in batches]
        return torch.cat(parts)[self._to_device(order.argsort())]

    def _stack(self, pixels: Sequence[Tensor]) -> Tensor:
        """N of (H, W, 3) -> (N, H, W, 3); for a GPU in pinned memory, which torch's host allocator reuses."""
        if self.device.type != "cuda":
            return torch.stack(list(pixels))
        pinned = torch.empty((len(pixels), *pixels[0].shape), dtype=pixels[0].dtype, pin_memory=True)
        return torch.stack(list(pixels), out=pinned)

    def _to_device(self, batch: Tensor) -> Tensor:
        """Copy to the device; to a GPU from pinned memory, so that the copy overlaps its work."""
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch


def load_encoder(
    model: str, pretrained: str, device: torch.device, options: EncoderOptions, delta: Path | None = None
) -> ClipEncoder:
    """Load `model` with the weights `pretrained` (a tag or a file; "" for local-dir: and hf-hub: models).

    Weights are rounded to the precision; matrix products use it if the device has instructions for it, else float32,
    under the same spec. delta: a file of `embed.clip.delta`, whose SHA-256 becomes part of the spec. Raises
    EncoderUnavailable with a remedy, and TooLittleMemory if the towers do not fit into the device's memory.
    """
    try:
        return _load_encoder(model, pretrained, device, options, delta)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = "the GPU's memory; use --device cpu (DEVICE=cpu)" if device.type == "cuda" else "this machine's memory"
        raise TooLittleMemory(f"{model} does not fit into {where} ({first_line(error)})") from error


def _load_encoder(
    model: str, pretrained: str, device: torch.device, options: EncoderOptions, delta: Path | None
) -> ClipEncoder:
    limit_threads()
    # TF32, torch's default for convolutions on a GPU, changes vectors by 1e-3; the spec says float32
    torch.backends.cudnn.allow_tf32 = False
    precision = choose_precision(options.prefer or options.precision, device)
    config, weights = find_weights(model, pretrained)
    tokenizer = load_tokenizer(model, options.long_text)
    clip, transform = load_clip(model, pretrained, device, precision, config, weights)
    tuned = {}
    if delta is not None:
        # applied in float32 and rounded once: changes below half a rounding step would be lost otherwise
        whole = clip if precision == "fp32" else load_clip(model, pretrained, _CPU, "fp32", config, weights)[0]
        tuned["delta_sha256"] = apply_delta(whole, delta)
        if whole is not clip:
            clip.load_state_dict(whole.state_dict())
    native = has_products(precision, device)
    if not native:
        _LOG.warning("this %s computes matrix products of %s weights in float32", device.type, precision)
        clip.float()
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    dtype = _DTYPES[precision if native else "fp32"]
    image = image_tower(clip, options.features, dtype).eval()
    text = text_tower(clip, options.features, dtype).eval()
    # open_clip's CoCa does not run in half precision, so it must not get such a spec where float32 is used instead
    if precision != "fp32" and (
        isinstance(clip, CoCa) or not _runs(image, text, preprocess["size"], tokenizer, device)
    ):
        if options.precision != "auto":
            raise EncoderUnavailable(f"open_clip cannot run {model} in {precision}; use --precision fp32")
        del clip, image, text  # or two models would be in memory
        return _load_encoder(model, pretrained, device, replace(options, precision="fp32", prefer=""), delta)
    spec = {
        **_spec(model, config, weights),
        **preprocessing_fields(tokenizer, options.picture),
        **tuned,
        "preprocess": preprocess,
        "feature": options.features,
        # number of projected columns, the last ones
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
        picture=options.picture,
        device=device,
        spec=json.loads(json.dumps(spec)),  # as read from disk: lists instead of tuples
        weights=weights,
    )


@torch.inference_mode()
def _runs(
    image: nn.Module, text: nn.Module, size: int | Sequence[int], tokenizer: Tokenizer, device: torch.device
) -> bool:
    """Whether both towers can run in their precision."""
    try:
        image(torch.zeros(1, 3, *height_and_width(size), device=device))
        text(tokenizer.rows("").to(device))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def load_clip(
    model: str, pretrained: str, device: torch.device, precision: str, config: dict[str, Any], weights: Path
) -> tuple[nn.Module, Any]:
    """The model in eval mode, without gradients, and open_clip's transform for it. Raises EncoderUnavailable."""
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
    # for other files than this model's weights open_clip raises anything from AssertionError to KeyError
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise EncoderUnavailable(f"{weights} could not be loaded as weights of {model}: {_reason(error)}") from error
    return clip.eval().requires_grad_(False), transform


def _reason(error: Exception) -> str:
    """A short reason: torch's messages for pickles and TorchScript advise to load them unsafely."""
    if "TorchScript" in str(error):
        return "a TorchScript program, like OpenAI's .pt files; PRETRAINED=openai downloads the same weights"
    return "not a checkpoint" if isinstance(error, pickle.UnpicklingError) else first_line(error)


def _spec(model: str, config: dict[str, Any], weights: Path) -> dict[str, Any]:
    return {
        "format": 1,
        # without the folder's path, which does not change vectors
        "model": "local-dir" if model.startswith(LOCAL_DIR) else model,
        "model_config": config,
        "weights_sha256": file_digest(weights),
    }
