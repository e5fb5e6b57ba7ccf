"""Linear heads: a weighted sum of inputs. Logistic regressions, and the cosine, as the bundle keeps them.

Knows nothing of how the weights are found. Fitted by `head.candidates`, served as any head.
"""

import torch
from torch import Tensor, nn

from head.model.inputs import Inputs, InputsConfig


class LinearHead(nn.Module):
    """M members: a weight for each input and a bias, (N, Di) and (N, Dt) -> (M, N) logits."""

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
