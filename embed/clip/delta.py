"""What fine-tuning changed of an encoder, as one safetensors file beside a bundle's config.json.

The tensors are float32 and named as in the `state_dict()` of open_clip's model. A weight W stands there whole, under its
own name, or as the two factors of a low-rank change (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
2021): `W.lora_A` (r, I) and `W.lora_B` (O, r), the scale multiplied into B, so that the new weight is W + B A.

It knows nothing of training and of bundles. `python -m finetune` writes one; the batch job and the server add it to the
encoder as they load it, so that a fine-tuned encoder runs as fast as the one it was made from.
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
    """Write the weights that training changed, whole or not at all; equal tensors give equal bytes.

    state: by name, as above, on any device. Raises OSError, and ValueError for what `apply_delta` would refuse of any
    model.
    """
    # copies: safetensors refuses views of one tensor, as the slices of a larger weight are
    copied = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    problem = _problem(copied)
    if problem:
        raise ValueError(f"{path}: {problem}")
    write_bytes_atomically(path, save(copied))


def apply_delta(clip: nn.Module, path: Path) -> str:
    """Add a delta to a loaded open_clip model, in place and all of it or nothing; the SHA-256 of the bytes that were
    added.

    A low-rank change is added in float32 and rounded to the weight's own dtype, so a model in half precision loses what
    is smaller than half a step of its weights: add to a float32 model first (`embed.clip.encoder.load_encoder` does). Raises
    EncoderUnavailable, naming the file, for one that cannot be read, that is damaged, or that is of another model.
    """
    try:
        data = path.read_bytes()
        state = load(data)
    except OSError as error:
        raise EncoderUnavailable(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    # a KeyError is how safetensors fails on a dtype that torch has not
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
    """The name of the weight that the tensor of this name in a delta is of: whole, or as a factor of its change."""
    return name.removesuffix(LORA_A).removesuffix(LORA_B)


def _problem(state: dict[str, Tensor]) -> str:
    """What is wrong with a delta, whatever model it is of, or ""."""
    if not state:
        return "a delta without weights"
    for name, value in state.items():
        target = weight_of(name)
        pair = {target + LORA_A, target + LORA_B}
        if value.dtype != torch.float32:
            return f"{name}: expected float32, got {str(value.dtype).removeprefix('torch.')}"
        if not value.isfinite().all():
            return f"{name} holds NaN or infinite numbers"
        if name in pair and not pair <= state.keys():
            return f"{name} without {min(pair - {name})}"
        if name in pair and target in state:
            return f"{target} stands there whole, and as a low-rank change too"
        if name in pair and value.dim() != 2:
            return f"{name}: expected 2 dimensions, got the shape {tuple(value.shape)}"
    return ""


def _misfit(state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """Why a delta is not of the model with these weights, or ""."""
    for name, value in state.items():
        target = weight_of(name)
        if target not in own:
            return f"{target}: no weight of this encoder, so the delta is of another one"
        expected, shape = own[target].shape, value.shape
        if name != target:
            low, high = state[target + LORA_A].shape, state[target + LORA_B].shape
            if low[0] != high[1]:
                return f"{target}: low-rank factors of the ranks {low[0]} and {high[1]}"
            shape = torch.Size((high[0], low[1]))
        if shape != expected:
            return f"{target}: expected the shape {tuple(expected)}, got {tuple(shape)}, so the delta is of another encoder"
    return ""
