"""Training losses, one value per member, on logits and embeddings of M members at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = ("bce", "focal")
# RGCL's margin between the cosines of the two neighbours.
_MARGIN = 0.1


@dataclass(frozen=True)
class LossConfig:
    """The training loss. Raises ValueError for values out of range.

    kind: one of LOSSES; class_weight: whether both classes have equal total weight; smoothing: label smoothing; focus: focal
    loss's gamma; contrastive: weight of the retrieval-guided term.
    """

    kind: str = "bce"
    class_weight: bool = False
    smoothing: float = 0.0
    focus: float = 2.0  # the best in the paper of focal loss
    contrastive: float = 0.0  # RGCL's is .5

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise ValueError(f"kind: expected one of {', '.join(LOSSES)}, got {self.kind!r}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: expected a number from 0 to below 1, got {self.smoothing!r}")
        for name in ("focus", "contrastive"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")


def class_weights(label: Tensor, counts: Tensor) -> Tensor:
    """Weights (M, N) for labels (M, N) 0/1 that give both classes equal total weight in each member, with mean 1.

    King and Zeng, "Logistic Regression in Rare Events Data" (2001), as scikit-learn's `class_weight="balanced"`.
    counts: (M, N), 1 for the member's memes, else 0.
    """
    total = counts.sum(dim=1, keepdim=True)  # (M, 1)
    positive = (label * counts).sum(dim=1, keepdim=True)
    return torch.where(label > 0, total / (2 * positive), total / (2 * (total - positive)))


def classification_loss(config: LossConfig, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean loss (M,) over the memes; logits, label and weight (M, N).

    Binary cross-entropy; label smoothing is that of Szegedy et al., "Rethinking the Inception Architecture for Computer
    Vision" (2016), with two classes; focal loss that of Lin et al., "Focal Loss for Dense Object Detection" (2017): each
    meme's loss times (1 - the probability of its label) ** focus.
    """
    target = label * (1 - config.smoothing) + config.smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    if config.kind == "focal":
        loss = loss * torch.sigmoid(logits * (1 - 2 * label)) ** config.focus
    return loss.sum(dim=1) / weight.sum(dim=1)


def retrieval_loss(anchor: Tensor, like: Tensor, unlike: Tensor, label: Tensor) -> Tensor:
    """Mean triplet loss (M,) of embeddings (M, N, H), with margin; label: (M, N) 0/1.

    From RGCL (Mei et al., "Improving Hateful Meme Detection through Retrieval-Guided Contrastive Learning", 2024):
    `like` is the pseudo-gold positive, the most similar meme of the anchor's label, `unlike` the hard negative, the most
    similar one of the other label, both retrieved by `nearest`; the mean cosine to the batch's memes of the other label is
    added to that of the hard negative. Retrieved embeddings are computed once per epoch and get no gradient: recomputing
    them at each step, as RGCL does, takes three times as long.
    """
    others = (label[:, :, None] != label[:, None, :]).to(anchor.dtype)  # (M, N, N)
    batch = (cosines(anchor, anchor) * others).sum(dim=2) / others.sum(dim=2).clamp(min=1)  # (M, N)
    negative = F.cosine_similarity(anchor, unlike, dim=-1) + batch
    return F.relu(negative - F.cosine_similarity(anchor, like, dim=-1) + _MARGIN).mean(dim=1)


def cosines(query: Tensor, bank: Tensor) -> Tensor:
    """(M, N, B) cosines of embeddings (M, N, H) and (M, B, H)."""
    return torch.bmm(F.normalize(query, dim=-1), F.normalize(bank, dim=-1).mT)


def nearest(similarity: Tensor, allowed: Tensor) -> Tensor:
    """(M, N) indices into the bank of the most similar allowed embedding; similarity, allowed: (M, N, B)."""
    return similarity.masked_fill(~allowed, -2.0).argmax(dim=-1)  # below any cosine
