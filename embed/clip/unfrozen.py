"""An open_clip model with trainable last blocks, for fine-tuning.

Each tower is split at its first trainable block. The frozen part need run only once per picture or text; the rest runs
through open_clip's own modules, with gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from embed.clip.delta import LORA_A, LORA_B, weight_of
from embed.clip.encoder import ClipEncoder, load_clip, load_encoder
from embed.clip.hardware import has_products
from embed.clip.options import EncoderRequest
from embed.clip.preprocessor import height_and_width
from embed.clip.towers import Tower, stock_encoders
from embed.clip.weights import EncoderUnavailable, find_weights

SIDES = ("image", "text")
# Modules and parameters after a tower's blocks, by open_clip's and timm's names.
_AFTER = {
    VisionTransformer: ("attn_pool", "ln_post", "proj"),
    TimmModel: ("trunk.norm", "trunk.fc_norm", "trunk.attn_pool", "trunk.head", "head"),
    TextTransformer: ("ln_final", "text_projection"),
    CLIP: ("ln_final", "text_projection"),
}


@dataclass(frozen=True)
class Unfreezing:
    """The trainable part of a model. Raises ValueError for values that are invalid for every model.

    blocks: number of trainable last blocks per tower; sides: the towers, of SIDES; rank: 0 trains the weights of the
    blocks and of the norm and projection after them; otherwise the rank of LoRA factors of the blocks' matrices.
    """

    blocks: int = 2
    sides: tuple[str, ...] = SIDES
    rank: int = 0

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("rank", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {getattr(self, name)}")
        if not self.sides or not set(self.sides) <= set(SIDES):
            raise ValueError(f"sides: expected some of {', '.join(SIDES)}, got {self.sides}")


class UnfrozenEncoder:
    """A float32 model with some trainable weights.

    encoder: preprocessing and the spec of the original model, without towers; weights: {name in a delta: trainable
    parameter}; width: of the trainable blocks, of the wider tower. `begin_*` runs the frozen part, without gradients,
    and `*_features` the rest.
    """

    def __init__(self, encoder: ClipEncoder, clip: nn.Module, unfreezing: Unfreezing, seed: int) -> None:
        """seed: of the LoRA factors. Raises EncoderUnavailable for a tower without such blocks."""
        self.encoder = encoder
        self._autocast = _autocast(encoder.device)
        image, text = stock_encoders(clip, encoder.spec["feature"])
        self._image, self._text = (
            _SplitTower(encode, *_blocks(clip, side, unfreezing.blocks))
            if side in unfreezing.sides
            else _FrozenTower(encode)
            for side, encode in zip(SIDES, (image, text))
        )
        size = height_and_width(encoder.spec["preprocess"]["size"])
        self._blank = torch.zeros(1, 3, *size, device=encoder.device)
        self.weights = _low_rank(clip, unfreezing, seed) if unfreezing.rank else _own(clip, unfreezing)
        self.width = max(_width(clip, side, unfreezing.blocks) for side in unfreezing.sides)
        self._before = {name: value.detach().cpu().clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def begin_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """N pictures of (H, W, 3) uint8 -> (N, ...), the output of the frozen part, on the device."""
        batch = torch.stack(list(pixels)).to(self.encoder.device).permute(0, 3, 1, 2)
        with self._autocast():
            return self._image.begin(batch.float().div_(255).sub_(self.encoder.mean).div_(self.encoder.std))

    @torch.no_grad()
    def begin_texts(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """N texts of (P, L) int64 -> N of (P, ...), the output of the frozen part, on the device."""
        with self._autocast():
            begun = self._text.begin(torch.cat(list(tokens)).to(self.encoder.device))
        return list(begun.split([len(rows) for rows in tokens]))

    def image_features(self, begun: Tensor) -> Tensor:
        """(N, ...) from `begin_images`, on any device -> (N, D) float32, with gradients."""
        blank = self._blank.expand(len(begun), -1, -1, -1)
        with self._autocast(), parametrize.cached():
            return self._image.finish(begun.to(self.encoder.device), blank).float()

    def text_features(self, begun: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
        """N from `begin_texts` and their N texts -> (N, D) float32, the mean over each text's rows, with gradients."""
        rows, device = torch.cat(list(tokens)), self.encoder.device
        with self._autocast(), parametrize.cached():
            vectors = self._text.finish(torch.cat(list(begun)).to(device), rows.to(device)).float()
        return torch.stack([part.mean(dim=0) for part in vectors.split([len(part) for part in tokens])])

    def delta(self) -> dict[str, Tensor]:
        """The tensors of a delta, float32 on the CPU: those of the changed weights."""
        now = {name: value.detach().cpu() for name, value in self.weights.items()}
        changed = {weight_of(name) for name, value in now.items() if not torch.equal(value, self._before[name])}
        return {name: value for name, value in now.items() if weight_of(name) in changed}


def load_unfrozen(
    request: EncoderRequest, device: torch.device, unfreezing: Unfreezing, seed: int = 0
) -> UnfrozenEncoder:
    """Load as `load_encoder` does, with trainable weights; seed: of the LoRA factors. Raises EncoderUnavailable."""
    model, pretrained = request.model, request.pretrained
    encoder = load_encoder(model, pretrained, device, request.options)
    # drop the inference towers, which are as large as the model
    encoder = replace(encoder, image_tower=Tower(), text_tower=Tower())
    clip, _ = load_clip(model, pretrained, device, "fp32", *find_weights(model, pretrained))
    return UnfrozenEncoder(encoder, clip, unfreezing, seed)


class _FrozenTower:
    """A tower without trainable weights."""

    def __init__(self, encode: Callable[[Tensor], Tensor]) -> None:
        self.begin = encode

    def finish(self, begun: Tensor, _: Tensor) -> Tensor:
        return begun


class _SplitReached(Exception):
    """The forward pass has reached the first trainable block, with this input."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _SplitTower:
    """A tower, split before its last `count` blocks."""

    def __init__(self, encode: Callable[[Tensor], Tensor], owner: nn.Module, name: str, count: int) -> None:
        """name: of the attribute of `owner` that holds the blocks."""
        self._encode, self._owner, self._name = encode, owner, name
        self._last: Any = getattr(owner, name)[-count:]

    def begin(self, batch: Tensor) -> Tensor:
        def stop(_: nn.Module, given: tuple[Tensor, ...]) -> NoReturn:
            raise _SplitReached(given[0])

        with self._last[0].register_forward_pre_hook(stop):
            try:
                self._encode(batch)
            except _SplitReached as reached:
                return reached.hidden
        raise RuntimeError(f"the blocks {self._name} are not part of the forward pass")

    def finish(self, begun: Tensor, batch: Tensor) -> Tensor:
        """Run the trainable part; `batch` only gives the position at which a text is pooled."""
        with (
            self._without_frozen_blocks(),
            self._last[0].register_forward_pre_hook(lambda _, given: (begun, *given[1:])),
        ):
            return self._encode(batch)

    @contextmanager
    def _without_frozen_blocks(self) -> Iterator[None]:
        every = getattr(self._owner, self._name)
        setattr(self._owner, self._name, self._last)
        try:
            yield
        finally:
            setattr(self._owner, self._name, every)


class _LowRank(nn.Module):
    """LoRA (see `embed.clip.delta`): W -> W + B A, A (r, I) random, B (O, r) initially zero, scale alpha / r = 1."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        bound = inputs**-0.5  # initialisation of nn.Linear and of the paper's code
        self.a = nn.Parameter(torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator).to(weight.device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def _own(clip: nn.Module, unfreezing: Unfreezing) -> dict[str, nn.Parameter]:
    """The parameters of the last blocks and of the modules after them, with gradients enabled."""
    found: dict[str, nn.Parameter] = {}
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    for side in unfreezing.sides:
        tower = _tower(clip, side)
        owner, name, count = _blocks(clip, side, unfreezing.blocks)
        inside = [*getattr(owner, name)[-count:].parameters()]
        after = [parameter for own, parameter in tower.named_parameters() if own.startswith(_after(tower))]
        found |= {names[id(parameter)]: parameter.requires_grad_(True) for parameter in (*inside, *after)}
    return found


def _low_rank(clip: nn.Module, unfreezing: Unfreezing, seed: int) -> dict[str, nn.Parameter]:
    """The LoRA factors of every matrix of the last blocks, registered in the model."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, nn.Parameter] = {}
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    for side in unfreezing.sides:
        owner, name, count = _blocks(clip, side, unfreezing.blocks)
        for module in [*getattr(owner, name)[-count:].modules()]:
            for own, weight in [*module.named_parameters(recurse=False)]:
                if weight.dim() == 2:
                    change = _LowRank(weight, unfreezing.rank, generator)
                    parametrize.register_parametrization(module, own, change, unsafe=True)
                    found |= {names[id(weight)] + LORA_A: change.a, names[id(weight)] + LORA_B: change.b}
    return found


def _tower(clip: Any, side: str) -> nn.Module:
    if side == "image":
        return clip.visual
    return clip if isinstance(clip, CLIP) else clip.text


def _after(tower: nn.Module) -> tuple[str, ...]:
    return next(names for kind, names in _AFTER.items() if isinstance(tower, kind))


def _blocks(clip: nn.Module, side: str, count: int) -> tuple[nn.Module, str, int]:
    """The owner and attribute name of a tower's blocks, and `count`. Raises EncoderUnavailable."""
    tower: Any = _tower(clip, side)
    timm = isinstance(tower, TimmModel)
    owner: Any = tower.trunk if timm else getattr(tower, "transformer", None)
    name = "blocks" if timm else "resblocks"
    blocks = getattr(owner, name, None)
    if not isinstance(tower, tuple(_AFTER)) or not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        other = next(one for one in SIDES if one != side)
        raise EncoderUnavailable(
            f"this model's {side} tower ({type(tower).__name__}) has no transformer blocks to unfreeze; use "
            f"--towers {other}"
        )
    if count > len(blocks):
        raise EncoderUnavailable(f"blocks: expected 1 to {len(blocks)}, as this model's {side} tower has, got {count}")
    return owner, name, count


def _width(clip: nn.Module, side: str, count: int) -> int:
    """The width of a tower's blocks, from the layer norm of the last one."""
    owner, name, _ = _blocks(clip, side, count)
    return next(len(weight) for weight in getattr(owner, name)[-1].parameters() if weight.dim() == 1)


def _autocast(device: torch.device) -> Callable[[], AbstractContextManager]:
    """bfloat16 on a GPU with instructions for it; on a CPU it made ViT-L/14 several times slower."""
    on = device.type == "cuda" and has_products("bf16", device)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=on)
