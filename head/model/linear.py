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
        rows = [self.inputs.of_member(image, text, member) for member in range(self.members)]
        return torch.stack([part @ weight + bias for part, weight, bias in zip(rows, self.weight, self.bias)])
