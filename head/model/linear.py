"""Linear heads: the stored form of logistic regressions. Fitted in `head.candidates.regression`."""

import torch
from torch import Tensor, nn

from head.model.inputs import Inputs, InputsConfig


class LinearHead(nn.Module):
    """M linear functions of the inputs, (N, Di) and (N, Dt) -> (M, N) logits."""

    weight: Tensor  # (M, W)
    bias: Tensor  # (M,)

    def __init__(self, config: InputsConfig, members: int = 1) -> None:
        super().__init__()
        self.config, self.members = config, members
        self.inputs = Inputs(config, members)
        self.weight = nn.Parameter(torch.zeros(members, sum(config.widths)))
        self.bias = nn.Parameter(torch.zeros(members))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        members = zip(self.inputs.by_member(image, text), self.weight, self.bias)
        return torch.stack([rows @ weight + bias for rows, weight, bias in members])
