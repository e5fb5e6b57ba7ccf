"""Write and apply an encoder delta: the weights changed by fine-tuning, as a safetensors file.

Tensors are float32 and named as in the `state_dict()` of open_clip's model. A weight W is stored in full, under its own
name, or as LoRA factors (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021) `W.lora_A` (r, I) and
`W.lora_B` (O, r), with the scale multiplied into B: the new weight is W + B A.

The delta is merged into the weights at loading, so a fine-tuned encoder is as fast as its original.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cache import write_bytes_atomically
from embed.clip.weights import EncoderUnavailable

DELTA = "encoder_delta.safetensors"
LORA_A, LORA_B = ".lora_A", ".lora_B"
_REMEDY = "copy the bundle again, whole, or run `make finetune` again"


def write_delta(path: Path, state: dict[str, Tensor]) -> None:
    """Write a delta atomically; equal tensors give equal bytes.

    state: float32 tensors by name, as above, on any device. Raises OSError, and ValueError for a delta that is invalid
    for every model.
    """
    # copied, because safetensors refuses views that share memory, such as slices of one weight
    copied = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    problem = _problem(copied)
    if problem:
        raise ValueError(f"{path}: {problem}")
    write_bytes_atomically(path, save(copied))


def apply_delta(clip: nn.Module, path: Path) -> str:
    """Apply a delta to a loaded open_clip model in place, completely or not at all; return the file's SHA-256.

    A low-rank change is added in float32 and rounded to the weight's dtype, so a model in half precision loses changes
    below half a rounding step; `embed.clip.encoder.load_encoder` applies it to float32 weights and rounds afterwards.
    Raises EncoderUnavailable, naming the file, if it cannot be read, is damaged, or belongs to another model.
    """
    try:
        data = path.read_bytes()
        state = load(data)
    except OSError as error:
        raise EncoderUnavailable(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    # safetensors raises KeyError for a dtype that torch does not have
    except (SafetensorError, KeyError) as error:
        raise EncoderUnavailable(f"{path}: not a safetensors file ({error}); {_REMEDY}") from error
    own = {name: weight for name, weight in clip.state_dict().items() if weight.is_floating_point()}
    problem = _problem(state) or _misfit(state, own)
    if problem:
        raise EncoderUnavailable(f"{path}: {problem}; {_REMEDY}")
    with torch.no_grad():
        for name, value in state.items():
            if name.endswith(LORA_A):
                weight = own[weight_of(name)]
                change = state[weight_of(name) + LORA_B] @ value
                weight.copy_(weight.float() + change.to(weight.device))
            elif not name.endswith(LORA_B):
                own[name].copy_(value)
    return hashlib.sha256(data).hexdigest()


def weight_of(name: str) -> str:
    """The name of the model's weight that a tensor of a delta belongs to: `name` without a LoRA suffix."""
    return name.removesuffix(LORA_A).removesuffix(LORA_B)


def _problem(state: dict[str, Tensor]) -> str:
    """Why a delta is invalid for every model, or ""."""
    if not state:
        return "the delta has no weights"
    for name, value in state.items():
        target = weight_of(name)
        pair = {target + LORA_A, target + LORA_B}
        if value.dtype != torch.float32:
            return f"{name}: expected float32, got {str(value.dtype).removeprefix('torch.')}"
        if not value.isfinite().all():
            return f"{name} holds NaN or infinite numbers"
        if name in pair and not pair <= state.keys():
            return f"{name}: its factor {min(pair - {name})} is missing"
        if name in pair and target in state:
            return f"{target}: stored both in full and as a low-rank change"
        if name in pair and value.dim() != 2:
            return f"{name}: expected 2 dimensions, got the shape {tuple(value.shape)}"
    return ""


def _misfit(state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """Why a delta does not fit the model's weights `own`, or ""."""
    for name, value in state.items():
        target = weight_of(name)
        if target not in own:
            return f"{target}: no weight of this encoder, so the delta is of another one"
        expected, shape = own[target].shape, value.shape
        if name != target:
            low, high = state[target + LORA_A].shape, state[target + LORA_B].shape
            if low[0] != high[1]:
                return f"{target}: low-rank factors of different ranks, {low[0]} and {high[1]}"
            shape = torch.Size((high[0], low[1]))
        if shape != expected:
            return f"{target}: expected the shape {tuple(expected)}, got {tuple(shape)}, so the delta is of another encoder"
    return ""
