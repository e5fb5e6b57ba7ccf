"""k nearest neighbours as a head. Fitted in `head.candidates.neighbours`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from head.model.fusion import FusionHead, HeadConfig
from head.model.inputs import Inputs, InputsConfig, require_whole

# Pseudo-count of votes for each class: a unanimous vote has no finite logit.
_HALF_A_VOTE = 0.5
_MOST_KNOWN = 1 << 24


@dataclass(frozen=True)
class NeighbourConfig:
    """space: the inputs, or the fusion head whose embedding, that neighbours are searched in; known: number of stored memes;
    voters: k. Raises ValueError for counts out of range."""

    space: InputsConfig | HeadConfig
    known: int
    voters: int

    def __post_init__(self) -> None:
        for name, most in (("known", _MOST_KNOWN), ("voters", self.known)):
            require_whole(name, getattr(self, name), 1, most)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are read: "image", "text" or both."""
        return self.space.sides


class NeighbourHead(nn.Module):
    """M members, (N, Di) and (N, Dt) -> (M, N) logits of the share of offensive memes among the k nearest by cosine (Cover and
    Hart, "Nearest Neighbor Pattern Classification", 1967). Each member searches its own train memes."""

    image: Tensor  # (B, Di)
    text: Tensor  # (B, Dt)
    label: Tensor  # (B,) of 0 and 1
    known: Tensor  # (M, B), 1 for a member's train memes

    def __init__(self, config: NeighbourConfig, members: int = 1) -> None:
        super().__init__()
        self.config, self.members = config, members
        space = config.space
        self.space = Inputs(space, members) if isinstance(space, InputsConfig) else FusionHead(space, members)
        for name, shape in (
            ("image", (config.known, space.image_dim)),
            ("text", (config.known, space.text_dim)),
            ("label", (config.known,)),
            ("known", (members, config.known)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self._bank: Tensor | None = None

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.votes(image, text, (self.config.voters,))[..., 0]

    def votes(self, image: Tensor, text: Tensor, voters: tuple[int, ...]) -> Tensor:
        """(M, N, V) logits for V values of k, each capped at the number of stored memes."""
        near = self._embedded(image, text) @ self._known_memes().mT  # (M, N, B)
        near = near.masked_fill(self.known[:, None] == 0, -2.0)  # below any cosine
        fewest = int(self.known.sum(dim=1).min())
        counts = torch.tensor([min(count, fewest) for count in voters], device=near.device)
        nearest = near.topk(int(counts.max()), dim=-1).indices
        offensive = self.label[nearest].cumsum(dim=-1)[..., counts - 1]
        return torch.logit((offensive + _HALF_A_VOTE) / (counts + 2 * _HALF_A_VOTE))

    def _known_memes(self) -> Tensor:
        """(M, B, H), computed at the first call."""
        if self._bank is None or self._bank.device != self.image.device:
            self._bank = self._embedded(self.image, self.text)
        return self._bank

    def _embedded(self, image: Tensor, text: Tensor) -> Tensor:
        return F.normalize(self.space.embed_vectors(image, text), dim=-1)
