"""Fusion heads: an image vector and a text vector in, one logit of "offensive" out.

Knows neither the encoder nor the training; a head is rebuilt from its HeadConfig and its state dict alone.
Used by `python -m head tune`, and by the server through `head.bundle`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Width of the fused vector, in widths of one mapped side.
_FUSED_WIDTHS = {"concat": 2, "align": 1, "align_concat": 3, "combiner": 1}
FUSIONS = tuple(_FUSED_WIDTHS)
# Components of unit vectors deviate by about 1/sqrt(D), above .005; below this a column is constant up to rounding.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a head. Raises ValueError for what no head can have.

    fusion: one of FUSIONS; width: of a mapped side; depth: hidden layers, each `hidden` wide; map_dropout: on the
    mapped sides; dropout: on the fused vector and after each hidden layer.
    """

    image_dim: int
    text_dim: int
    fusion: str = "align"  # the element-wise product is the best single choice in HateCLIPper
    width: int = 256  # the papers have 1024 and thousands of memes; hundreds do not fill more
    depth: int = 1  # HateCLIPper and RGCL use 1 to 3; the shallowest overfits least
    hidden: int = 256  # as wide as a mapped side, as in the papers
    map_dropout: float = 0.2  # HateCLIPper
    dropout: float = 0.4  # HateCLIPper

    def __post_init__(self) -> None:
        for name in ("image_dim", "text_dim", "width", "depth", "hidden"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("map_dropout", "dropout"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number from 0 to below 1, got {value!r}")
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {self.fusion!r}")


class Standardise(nn.Module):
    """L2-normalise vectors, then standardise each column by the train vectors; (N, D) -> (N, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, vectors: Tensor) -> None:
        """Take mean and deviation of the normalised (N, D) vectors; a constant column is only centred."""
        rows = F.normalize(vectors.double(), dim=-1)
        std = rows.std(dim=0, correction=0)
        self.mean.copy_(rows.mean(dim=0))
        self.std.copy_(torch.where(std < _CONSTANT, 1.0, std))

    def forward(self, vectors: Tensor) -> Tensor:
        return (F.normalize(vectors, dim=-1) - self.mean) / self.std


class Combiner(nn.Module):
    """Gated sum of two mapped sides, (N, W) and (N, W) -> (N, W): mix + (1 - s) image + s text, one gate s per meme.

    From ISSUES (Burbi et al., "Mapping Memes to Words for Multimodal Hateful Meme Classification", 2023), which has
    it from Baldrati et al., "Conditioned and composed image retrieval combining and partially fine-tuning CLIP-based
    features" (2022).
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        both = torch.cat((image, text), dim=-1)  # (N, 2 W)
        s = torch.sigmoid(self.gate(both))  # (N, 1)
        return self.mix(both) + (1 - s) * image + s * text


class FusionHead(nn.Module):
    """Two cached vectors of a meme -> one logit of "offensive".

    concat, align and align_concat are the fusions of HateCLIPper (Kumar and Nandakumar, "Hate-CLIPper: Multimodal
    Hateful Meme Classification based on Cross-modal Interaction of CLIP Features", 2022); combiner is that of ISSUES.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.image_scaling, self.text_scaling = Standardise(config.image_dim), Standardise(config.text_dim)
        self.image_map = nn.Sequential(nn.Linear(config.image_dim, config.width), nn.Dropout(config.map_dropout))
        self.text_map = nn.Sequential(nn.Linear(config.text_dim, config.width), nn.Dropout(config.map_dropout))
        if config.fusion == "combiner":
            self.combiner = Combiner(config.width, config.dropout)
        self.classifier = _classifier(config)

    def fit_scaling(self, image: Tensor, text: Tensor) -> None:
        """Set the standardisation from the TRAIN vectors, (N, Di) and (N, Dt)."""
        self.image_scaling.fit(image)
        self.text_scaling.fit(text)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Vectors as the encoder gave them, (N, Di) and (N, Dt) -> logits (N,)."""
        fused = self._fuse(self.image_map(self.image_scaling(image)), self.text_map(self.text_scaling(text)))
        return self.classifier(fused).squeeze(-1)  # (N, 1) -> (N,)

    def _fuse(self, image: Tensor, text: Tensor) -> Tensor:
        """(N, W) and (N, W) -> (N, W times _FUSED_WIDTHS)."""
        if self.config.fusion == "concat":
            return torch.cat((image, text), dim=-1)
        if self.config.fusion == "combiner":
            return self.combiner(image, text)
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        if self.config.fusion == "align":
            return image * text
        return torch.cat((image * text, image, text), dim=-1)


def _classifier(config: HeadConfig) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Dropout(config.dropout)]
    width = _FUSED_WIDTHS[config.fusion] * config.width
    for _ in range(config.depth):
        layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        width = config.hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))
