"""Published architectures of open_clip with random weights: of full width, with two blocks and 1,000 words."""

from functools import partial

import open_clip
import pytest
import timm
import torch
from torch import nn


def small_clip(name: str, precision: str = "fp32") -> nn.Module:
    """The model, always with the same weights; whole ones would take gigabytes."""
    torch.manual_seed(0)
    parts = {part: config for part, config in open_clip.get_model_config(name).items() if part.endswith("_cfg")}
    for part in parts.values():
        if isinstance(part.get("layers"), int):
            part["layers"] = 2
        if "vocab_size" in part:
            part["vocab_size"] = 1000
    with pytest.MonkeyPatch.context() as patch:
        if "timm_model_name" in parts["vision_cfg"]:
            patch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
        clip = open_clip.create_model(name, load_weights=False, precision=precision, **parts)
    return clip.eval().requires_grad_(False)
