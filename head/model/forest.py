"""Random forests as a head: trees stored as tensors, so that nothing is unpickled. Fitted in `head.candidates.forest`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from head.model.inputs import Inputs, InputsConfig, require_whole

_MOST_TREES, _MOST_NODES, _DEEPEST = 10_000, 1 << 24, 10_000
# Pseudo-count of trees for each class: shares of 0 and 1 have no finite logit.
_HALF_A_TREE = 0.5


@dataclass(frozen=True)
class ForestConfig:
    """inputs: of the trees; trees: per member; nodes: of the largest tree; depth: of the deepest. Raises ValueError for counts
    out of range."""

    inputs: InputsConfig
    trees: int
    nodes: int
    depth: int

    def __post_init__(self) -> None:
        for name, most in (("trees", _MOST_TREES), ("nodes", _MOST_NODES), ("depth", _DEEPEST)):
            require_whole(name, getattr(self, name), 0, most)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are read: "image", "text" or both."""
        return self.inputs.sides


class ForestHead(nn.Module):
    """M forests (Breiman, "Random Forests", 2001), (N, Di) and (N, Dt) -> (M, N) logits of the trees' mean share of offensive
    memes in a meme's leaf."""

    feature: Tensor  # (M, T, K) int32, the input that a node compares; 0 in a leaf
    limit: Tensor  # (M, T, K), the highest value that goes left
    left: Tensor  # (M, T, K) int32, the next node; a leaf's is itself
    right: Tensor
    share: Tensor  # (M, T, K), of offensive memes

    def __init__(self, config: ForestConfig, members: int = 1) -> None:
        super().__init__()
        self.config, self.members = config, members
        self.inputs = Inputs(config.inputs, members)
        shape = (members, config.trees, config.nodes)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int32))
        for name in ("limit", "share"):
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        members = enumerate(self.inputs.by_member(image, text))
        return torch.stack([self._of_member(rows, member) for member, rows in members])

    def _of_member(self, rows: Tensor, member: int) -> Tensor:
        """(N, W) inputs -> (N,)."""
        node = torch.zeros(self.config.trees, len(rows), dtype=torch.int64, device=rows.device)
        for _ in range(self.config.depth):
            value_of = self.feature[member].gather(1, node).long()  # (T, N)
            goes_left = rows.gather(1, value_of.T).T <= self.limit[member].gather(1, node)
            follow = torch.where(goes_left, self.left[member].gather(1, node), self.right[member].gather(1, node))
            node = follow.long()
        share = self.share[member].gather(1, node).mean(dim=0)
        return torch.logit((share * self.config.trees + _HALF_A_TREE) / (self.config.trees + 2 * _HALF_A_TREE))
