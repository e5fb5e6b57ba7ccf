import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from head.fusion import FUSIONS, FusionHead, HeadConfig, Standardise

ROOT = Path(__file__).parent.parent


def make(fusion: str, depth: int = 2) -> tuple[FusionHead, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(9, 5, generator=generator) * 3, torch.randn(9, 4, generator=generator) + 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = FusionHead(HeadConfig(5, 4, fusion, width=6, depth=depth, hidden=7))
    head.fit_scaling(image, text)
    return head.eval(), image, text


def in_numpy(head: FusionHead, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The head's logits, written once more from the papers' formulas."""
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def linear(rows, name):
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    sides = []
    for name, rows in (("image", image), ("text", text)):
        rows = unit(rows)
        sides.append(linear((rows - rows.mean(0)) / rows.std(0), f"{name}_map.0"))
    i, t = sides
    if head.config.fusion == "concat":
        x = np.hstack((i, t))
    elif head.config.fusion == "align":
        x = unit(i) * unit(t)
    elif head.config.fusion == "align_concat":
        x = np.hstack((unit(i) * unit(t), unit(i), unit(t)))
    else:
        both = np.hstack((i, t))
        gate = linear(np.maximum(linear(both, "combiner.gate.0"), 0), "combiner.gate.3")
        s = 1 / (1 + np.exp(-gate))
        x = linear(np.maximum(linear(both, "combiner.mix.0"), 0), "combiner.mix.3") + (1 - s) * i + s * t
    for layer in range(head.config.depth):
        x = np.maximum(linear(x, f"classifier.{1 + 3 * layer}"), 0)
    return linear(x, f"classifier.{1 + 3 * head.config.depth}")[:, 0]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_is_its_formula(fusion, depth):
    head, image, text = make(fusion, depth)
    with torch.inference_mode():
        logits = head(image, text)
    assert logits.shape == (9,)
    np.testing.assert_allclose(logits, in_numpy(head, image.double().numpy(), text.double().numpy()), atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_config_and_state_dict_rebuild_a_head(fusion):
    head, image, text = make(fusion)
    again = FusionHead(head.config).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(head(image, text), again(image, text))


def test_a_constant_column_is_not_divided_by_zero_and_length_does_not_matter():
    scaling = Standardise(2)
    scaling.fit(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))  # the same unit vector twice
    assert torch.equal(scaling(torch.tensor([[7.0, 0.0]])), torch.zeros(1, 2))
    head, image, text = make("concat")
    torch.testing.assert_close(head(image, text), head(image * 10, text * 0.1))
    assert torch.isfinite(head(torch.zeros(1, 5), torch.zeros(1, 4))).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": "cross"}, {"image_dim": 0}, {"text_dim": -1}, {"width": 2.5}, {"depth": 0}, {"hidden": True},
        {"dropout": 1.0}, {"map_dropout": -0.1},
    ],
)  # fmt: skip
def test_impossible_configs_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HeadConfig(**{"image_dim": 4, "text_dim": 4, **wrong})


def test_the_server_can_import_the_bundle_without_the_tuning_libraries():
    code = "import sys, head.bundle, head.fusion; print({'optuna', 'sklearn', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
