"""Fusion heads: an image vector and a text vector in, one logit of "offensive" out.

A FusionHead holds M members, one per fold and repeat of a trial: heads of one shape with separate weights, evaluated as
batched matrix products. It is rebuilt from its HeadConfig, its number of members and its state dict.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from head.model.inputs import Agreement, check_widths, own_columns, own_width, require_whole
from head.model.scaling import Scaling

# Width of the fused vector, in widths of a mapped side. "linear" has no mapped sides: with depth 0 it is a linear probe.
# "agreement" has no sides, only agreement inputs.
_FUSED_WIDTHS = {
    "agreement": 0,
    "align": 1,
    "align_concat": 3,
    "combiner": 1,
    "concat": 2,
    "cross": 1,
    "difference": 1,
    "image": 1,
    "linear": 1,
    "text": 1,
}
FUSIONS = tuple(_FUSED_WIDTHS)
OUTPUTS = ("linear", "cosine")
# Width of a mapped side in an outer product: 32 x 32 is the papers' width of a mapped side.
_CROSS_WIDTH = 32
# Larger than any sensible head: beyond it config.json is damaged.
_WIDEST, _DEEPEST, _STEEPEST = 1 << 20, 64, 4
# Factor of agreement inputs, whose total variance is 3, to match mapped sides, whose components are about 1.
_AGREEMENT_SCALE = 4.0
# Residual ratio: CLIP-Adapter's value on most of its data sets.
_ADAPTER_RATIO = 0.2
# MemeCLIP's scale of cosines: without one, the highest probability is sigmoid(1 - (-1)) = .88.
_COSINE_SCALE = 30.0
# Random numbers are the slowest part of dropout on a CPU, so masks are slices of a pool at random offsets. The pool is several
# masks long, so that steps seldom share one.
_MASK_POOL = 1 << 20
_MASKS_PER_POOL = 4


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a head. Raises ValueError for values out of range.

    image_dim, text_dim: of the encoder's vectors, whose last `joint` columns lie in the shared space; fusion: one of FUSIONS;
    agreement: whether to append product, difference and cosine of the joint columns; centred: whether to centre those
    columns first; components: principal components of each side and of the joint space, 0 for no reduction; spectrum: see
    Scaling; adapter: width of a residual bottleneck per side, 0 for none; width: of a mapped side; depth: number of hidden
    layers of width `hidden`; output: one of OUTPUTS; map_dropout: on mapped sides; dropout: on the fused vector and after
    each hidden layer.
    """

    image_dim: int
    text_dim: int
    fusion: str = "align"  # the best fusion in HateCLIPper
    components: int = 64  # with hundreds of memes more do not generalise, and steps are several times slower
    spectrum: int = 2  # .03 of AUROC above 1 on planted memes
    adapter: int = 0  # seldom selected with hundreds of memes
    width: int = 128  # the papers: 1024, with thousands of memes
    depth: int = 1  # HateCLIPper and RGCL: 1 to 3; fewest overfit least
    hidden: int = 128  # the width of a mapped side, as in the papers
    output: str = "linear"
    map_dropout: float = 0.2  # HateCLIPper
    dropout: float = 0.4  # HateCLIPper
    joint: int = 0  # bundles older than this field have no agreement inputs
    agreement: bool = False
    centred: bool = True  # on real CLIP vectors the centred cosine ranks agreement best

    def __post_init__(self) -> None:
        check_widths(self.image_dim, self.text_dim, self.joint)
        least = {
            "components": 0,
            "spectrum": 0,
            "adapter": 0,
            "width": 1,
            "depth": 0,
            "hidden": 1,
        }
        for name, lowest in least.items():
            highest = {"depth": _DEEPEST, "spectrum": _STEEPEST}.get(name, _WIDEST)
            require_whole(name, getattr(self, name), lowest, highest)
        for name in ("map_dropout", "dropout"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number from 0 to below 1, got {value!r}")
        for name, known in (("fusion", FUSIONS), ("output", OUTPUTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("agreement", "centred"):
            if getattr(self, name) not in (False, True):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if self.agrees and not self.joint:
            raise ValueError("agreement: the sides share no space (joint is 0)")

    @property
    def agrees(self) -> bool:
        """Whether the head has agreement inputs."""
        return self.agreement or self.fusion == "agreement"

    @property
    def mapped(self) -> tuple[str, ...]:
        """The sides that are scaled and mapped separately."""
        alone = {"image": ("image",), "text": ("text",), "agreement": ()}
        return alone.get(self.fusion, ("image", "text"))

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that the head reads: "image", "text" or both."""
        return ("image", "text") if self.agrees else self.mapped

    @property
    def side_widths(self) -> dict[str, int]:
        """Widths of the two sides after scaling."""
        dims = {side: own_width(dim, self.joint) for side, dim in self._dims.items()}
        return {side: min(self.components or dim, dim) for side, dim in dims.items()}

    @property
    def agreement_components(self) -> int:
        """Number of principal components of the joint space in agreement inputs."""
        return min(self.components or self.joint, self.joint)

    @property
    def _dims(self) -> dict[str, int]:
        return {"image": self.image_dim, "text": self.text_dim}


class Linear(nn.Module):
    """M linear maps, (M, N, I) -> (M, N, O)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows, self.weight)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014); masks are slices of
    a pool that is drawn once."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self._pool = torch.empty(0)
        self._offsets = random.Random()

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training or not self._rate:
            return rows
        count = rows.numel()
        if len(self._pool) < _MASKS_PER_POOL * count:
            self._draw(max(_MASK_POOL, _MASKS_PER_POOL * count), rows)
        start = self._offsets.randrange(len(self._pool) - count)
        return rows * self._pool[start : start + count].view_as(rows)

    def redraw(self) -> None:
        """Discard the pool; the next one follows from torch's generator as it is then."""
        self._pool = torch.empty(0)

    def _draw(self, count: int, like: Tensor) -> None:
        """Seeded from torch's generator, so that its seed determines the masks."""
        mask = torch.rand(count, device=like.device) >= self._rate
        self._pool = mask.to(like.dtype).div_(1 - self._rate)
        self._offsets.seed(int(torch.randint(2**62, ()).item()))


class Adapter(nn.Module):
    """Residual bottleneck, (M, N, D) -> (M, N, D).

    Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters" (2021): two layers with ReLU, mixed with
    the input.
    """

    def __init__(self, members: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = Linear(members, width, bottleneck), Linear(members, bottleneck, width)

    def forward(self, rows: Tensor) -> Tensor:
        return _ADAPTER_RATIO * F.relu(self.up(F.relu(self.down(rows)))) + (1 - _ADAPTER_RATIO) * rows


class Combiner(nn.Module):
    """Gated sum of two mapped sides, (M, N, W) twice -> (M, N, W): mix + (1 - s) image + s text, with a gate s per meme.

    ISSUES (Burbi et al., "Mapping Memes to Words for Multimodal Hateful Meme Classification", 2023), after Baldrati et al.,
    "Conditioned and composed image retrieval combining and partially fine-tuning CLIP-based features" (2022).
    """

    def __init__(self, members: int, width: int, dropout: float) -> None:
        super().__init__()
        self.gate, self.mix = (
            nn.Sequential(Linear(members, 2 * width, width), nn.ReLU(), Dropout(dropout), Linear(members, width, out))
            for out in (1, width)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        both = torch.cat((image, text), dim=-1)  # (M, N, 2 W)
        s = torch.sigmoid(self.gate(both))  # (M, N, 1)
        return self.mix(both) + (1 - s) * image + s * text


class Cosine(nn.Module):
    """Difference of the scaled cosines to a prototype per class, (M, N, H) -> (M, N, 1).

    MemeCLIP (Shah et al., "MemeCLIP: Leveraging CLIP Representations for Multimodal Meme Classification", 2024).
    """

    def __init__(self, members: int, inputs: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(members, inputs, 2))  # non-offensive, offensive

    def forward(self, rows: Tensor) -> Tensor:
        cosines = torch.bmm(F.normalize(rows, dim=-1), F.normalize(self.prototypes, dim=1))  # (M, N, 2)
        return _COSINE_SCALE * (cosines[..., 1:] - cosines[..., :1])


class FusionHead(nn.Module):
    """M heads of one shape, (N, Di) and (N, Dt) -> (M, N) logits of "offensive".

    align (element-wise product), cross (outer product), concat and align_concat are the fusions of HateCLIPper (Kumar
    and Nandakumar, "Hate-CLIPper: Multimodal Hateful Meme Classification based on Cross-modal Interaction of CLIP
    Features", 2022); difference is the absolute difference of InferSent (Conneau et al., "Supervised Learning of
    Universal Sentence Representations from Natural Language Inference Data", 2017); combiner is that of ISSUES; image
    and text read one side; agreement has agreement inputs alone, which can be added to any other; linear concatenates the
    unmapped sides (linear probe: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    2021). Initial weights come from torch's global generator.
    """

    def __init__(self, config: HeadConfig, members: int = 1) -> None:
        super().__init__()
        self.config, self.members = config, members
        widths, components = config.side_widths, config.agreement_components
        dims = {side: own_width(dim, config.joint) for side, dim in config._dims.items()}
        self.scaling = nn.ModuleDict(
            {side: Scaling(members, dims[side], widths[side], config.spectrum) for side in config.mapped}
        )
        if config.agrees:
            self.scaling["agreement"] = Agreement(members, config.joint, components, config.centred)
        self.adapters = nn.ModuleDict(
            {side: Adapter(members, widths[side], config.adapter) for side in config.mapped if config.adapter}
        )
        mapped = min(config.width, _CROSS_WIDTH) if config.fusion == "cross" else config.width
        self.maps = nn.ModuleDict()
        if config.fusion != "linear":
            self.maps.update({side: Linear(members, widths[side], mapped) for side in config.mapped})
        self.map_dropout = Dropout(config.map_dropout)
        if config.fusion == "combiner":
            self.combiner = Combiner(members, mapped, config.dropout)
        fused = {"linear": sum(widths.values()), "cross": mapped**2}.get(
            config.fusion, _FUSED_WIDTHS[config.fusion] * mapped
        ) + config.agrees * (2 * components + 1)
        self.hidden = nn.Sequential(*_hidden(config, members, fused))
        last = config.hidden if config.depth else fused
        self.output = Cosine(members, last) if config.output == "cosine" else Linear(members, last, 1)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """The encoder's vectors, (N, Di) and (N, Dt) -> logits (M, N)."""
        return self.logits(self.embed_vectors(image, text))

    def embed_vectors(self, image: Tensor, text: Tensor) -> Tensor:
        """(N, Di) and (N, Dt) -> (M, N, H), as `embed`."""
        return self.embed(self.scale(image, text))

    def scale(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(N, Di) and (N, Dt) -> {side or "agreement": (M, N, width)}, by each member's scaling."""
        return {
            name: scaling(*scaled_columns(name, image, text, self.config.joint))
            for name, scaling in self.scaling.items()
        }

    def embed(self, scaled: dict[str, Tensor]) -> Tensor:
        """{side or "agreement": (M, N, width)} -> (M, N, H): the embedding before the output layer."""
        sides = {side: scaled[side] for side in self.config.mapped}
        for side, adapter in self.adapters.items():
            sides[side] = adapter(sides[side])
        if self.maps:
            sides = {side: self.map_dropout(linear(sides[side])) for side, linear in self.maps.items()}
        fused = [self._fuse(sides)] if sides else []
        if self.config.agrees:
            fused.append(_AGREEMENT_SCALE * scaled["agreement"])
        return self.hidden(fused[0] if len(fused) == 1 else torch.cat(fused, dim=-1))

    def logits(self, embedded: Tensor) -> Tensor:
        """(M, N, H) -> (M, N)."""
        return self.output(embedded).squeeze(-1)

    def _fuse(self, sides: dict[str, Tensor]) -> Tensor:
        """{side: (M, N, W)} -> (M, N, fused width)."""
        if len(sides) == 1:
            return next(iter(sides.values()))
        image, text = sides["image"], sides["text"]
        match self.config.fusion:
            case "concat" | "linear":
                return torch.cat((image, text), dim=-1)
            case "combiner":
                return self.combiner(image, text)
        image, text = _unit(image), _unit(text)
        match self.config.fusion:
            case "align":
                return image * text
            case "cross":
                return (image[..., :, None] * text[..., None, :]).flatten(-2)  # (M, N, W, W) -> (M, N, W W)
            case "difference":
                return (image - text).abs()
        return torch.cat((image * text, image, text), dim=-1)


def scaled_columns(name: str, image: Tensor, text: Tensor, joint: int) -> tuple[Tensor, ...]:
    """The columns of (N, Di) and (N, Dt) vectors that the scaling of that name takes."""
    if name == "agreement":
        return image[:, -joint:], text[:, -joint:]
    return (own_columns({"image": image, "text": text}[name], joint),)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length sqrt(W), hence components of about 1: products of unit rows would be about 1 / W, and training would start
    on a plateau."""
    return F.normalize(rows, dim=-1) * math.sqrt(rows.shape[-1])


def _hidden(config: HeadConfig, members: int, width: int) -> Iterator[nn.Module]:
    if config.fusion != "linear":
        yield Dropout(config.dropout)
    for _ in range(config.depth):
        yield from (Linear(members, width, config.hidden), nn.ReLU(), Dropout(config.dropout))
        width = config.hidden
