import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from head.model.fusion import FUSIONS, OUTPUTS, Dropout, FusionHead, HeadConfig

ROOT = Path(__file__).parents[3]
ROWS, MEMBERS = 9, 2
# Every fusion alone, without a shared space, and beside agreement inputs, of which the last three columns are.
ALONE = [{"fusion": fusion} for fusion in FUSIONS if fusion != "agreement"]
AGREEING = [{"fusion": fusion, "agreement": True, "joint": 3, "centred": fusion != "align"} for fusion in FUSIONS]
KINDS = pytest.mark.parametrize("kind", [*ALONE, *AGREEING], ids=str)


def make(config: HeadConfig, seed: int = 0) -> FusionHead:
    """A head in eval mode whose weights and scalings are all drawn, none at its initial zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = FusionHead(config, MEMBERS)
        for name, buffer in head.named_buffers():
            buffer.uniform_(0.5, 2) if name.endswith("std") else buffer.normal_()
            if name.endswith("centre"):
                buffer.mul_(config.centred)  # as a fit leaves it
    return head.eval()


def draw(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, 5, generator=generator) * 3, torch.randn(ROWS, 4, generator=generator) + 1


def unit(rows: np.ndarray, axis: int = 1) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=axis, keepdims=True), 1e-12)  # ReLU may leave nothing


def relu(rows: np.ndarray) -> np.ndarray:
    return np.maximum(rows, 0)


def in_numpy(head: FusionHead, image: Tensor, text: Tensor) -> np.ndarray:
    """The logits (M, N), written once more from the papers' formulas, in double precision and member by member."""
    return np.stack([_of_member(head, m, image.double().numpy(), text.double().numpy()) for m in range(head.members)])


def _of_member(head: FusionHead, member: int, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    config = head.config
    state = {name: value for name, value in head.state_dict().items() if not name.endswith("centre")}
    weights = {name: value[member].double().numpy() for name, value in state.items()}

    def linear(rows: np.ndarray, name: str) -> np.ndarray:
        return rows @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    sides = {}
    for side, rows in (("image", image), ("text", text)):
        if config.fusion == "agreement" or (config.fusion in ("image", "text") and config.fusion != side):
            continue
        own = rows[:, : rows.shape[1] - config.joint]
        x = (unit(own) - weights[f"scaling.{side}.mean"]) / weights[f"scaling.{side}.std"]
        if f"scaling.{side}.projection" in weights:
            x = x @ weights[f"scaling.{side}.projection"]
        if config.adapter:
            adapted = relu(linear(relu(linear(x, f"adapters.{side}.down")), f"adapters.{side}.up"))
            x = 0.2 * adapted + 0.8 * x
        sides[side] = x if config.fusion == "linear" else linear(x, f"maps.{side}")
    parts = [_fused(config.fusion, linear, *sides.values())] if sides else []
    if config.agrees:
        centre = head.get_buffer("scaling.agreement.centre")[:, member, 0].double().numpy()
        i, t = (unit(rows[:, -3:]) - at for rows, at in zip((image, text), centre))
        if config.centred:
            i, t = unit(i), unit(t)
        cosine = (i * t).sum(axis=1, keepdims=True)
        i, t = (side @ weights["scaling.agreement.rotation"] for side in (i, t))
        seen = np.hstack((i * t, abs(i - t), cosine))
        parts.append(4 * (seen - weights["scaling.agreement.mean"]) / weights["scaling.agreement.std"])
    x = np.hstack(parts)
    first = 0 if config.fusion == "linear" else 1  # after the dropout of the fused vector
    for layer in range(config.depth):
        x = relu(linear(x, f"hidden.{first + 3 * layer}"))
    if config.output == "linear":
        return linear(x, "output")[:, 0]
    cosines = unit(x) @ unit(weights["output.prototypes"], axis=0)
    return 30 * (cosines[:, 1] - cosines[:, 0])


def _fused(fusion: str, linear: Any, *sides: np.ndarray) -> np.ndarray:
    if len(sides) == 1:
        return sides[0]
    i, t = sides
    if fusion in ("concat", "linear"):
        return np.hstack((i, t))
    if fusion == "combiner":
        both = np.hstack((i, t))
        s = 1 / (1 + np.exp(-linear(relu(linear(both, "combiner.gate.0")), "combiner.gate.3")))
        return linear(relu(linear(both, "combiner.mix.0")), "combiner.mix.3") + (1 - s) * i + s * t
    i, t = (unit(side) * np.sqrt(side.shape[1]) for side in (i, t))
    if fusion == "cross":
        return np.stack([np.outer(one, other).ravel() for one, other in zip(i, t)])
    return {"align": i * t, "difference": abs(i - t), "align_concat": np.hstack((i * t, i, t))}[fusion]


@pytest.mark.parametrize("depth", [0, 1, 2])
@KINDS
def test_each_fusion_is_its_formula(kind: dict[str, Any], depth: int) -> None:
    image, text = draw()
    for adapter, output, components in product((0, 3), OUTPUTS, (0, 3)):
        config = HeadConfig(
            5, 4, **kind, components=components, adapter=adapter, width=6, depth=depth, hidden=7, output=output
        )
        head = make(config)
        with torch.inference_mode():
            logits = head(image, text)
        assert logits.shape == (MEMBERS, ROWS)
        np.testing.assert_allclose(logits, in_numpy(head, image, text), atol=1e-5, rtol=1e-5)
        assert (logits[0] - logits[1]).abs().max() > 1e-3  # members have weights of their own


@KINDS
def test_a_head_depends_on_the_sides_that_its_kind_names_and_on_no_other(kind: dict[str, Any]) -> None:
    (image, text), (other_image, other_text) = draw(), draw(seed=2)
    head = make(HeadConfig(5, 4, **kind, width=6, hidden=7))
    with torch.inference_mode():
        logits, with_image, with_text = head(image, text), head(other_image, text), head(image, other_text)
    assert torch.equal(logits, with_image) is (kind == {"fusion": "text"})
    assert torch.equal(logits, with_text) is (kind == {"fusion": "image"})
    sides = [side for side in ("image", "text") if kind["fusion"] == side] or ["image", "text"]
    assert head.config.sides == tuple(["image", "text"] if "joint" in kind else sides)


@KINDS
def test_config_and_state_dict_rebuild_a_head(kind: dict[str, Any]) -> None:
    head = make(HeadConfig(5, 4, **kind, components=3, adapter=2, width=6, hidden=7, output="cosine"))
    again = FusionHead(head.config, MEMBERS).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(head(*draw()), again(*draw()))


def test_a_cross_is_an_outer_product_of_maps_of_at_most_32() -> None:
    head = FusionHead(HeadConfig(5, 4, "cross", width=128, depth=0))
    assert head.maps["image"].weight.shape == (1, 5, 32) and head.output.weight.shape == (1, 1024, 1)


@KINDS
@pytest.mark.parametrize("output", OUTPUTS)
def test_vectors_of_zeros_have_logits_and_gradients(kind: dict[str, Any], output: str) -> None:
    head = FusionHead(HeadConfig(5, 4, **kind, width=6, hidden=7, output=output), MEMBERS)
    logits = head(torch.zeros(3, 5), torch.zeros(3, 4))
    logits.sum().backward()
    assert logits.isfinite().all() and all(part.grad.isfinite().all() for part in head.parameters())


def test_the_initial_weights_come_from_torchs_global_generator() -> None:
    config = HeadConfig(5, 4)
    first, same, other = make(config).state_dict(), make(config).state_dict(), make(config, seed=1).state_dict()
    assert all(torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_dropout_drops_at_its_rate_and_keeps_the_expectation(rate: float) -> None:
    rows = torch.ones(4, 100, 500)
    dropped = Dropout(rate)(rows)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    for axes in ((1, 2), (0, 2), (0, 1)):  # in each member, row and column
        assert (dropped.mean(dim=axes) - 1).abs().max() < 6 * (rate / (1 - rate) / (4 * 100)) ** 0.5
    assert dropped.mean() == pytest.approx(1, abs=0.02)


def test_no_two_members_and_no_two_steps_drop_the_same() -> None:
    drop, rows = Dropout(0.5), torch.ones(3, 20, 50)
    masks = [mask for _ in range(20) for mask in drop(rows)]
    agree = [(one == other).float().mean().item() for k, one in enumerate(masks) for other in masks[:k]]
    assert np.mean(agree) == pytest.approx(0.5, abs=0.02) and max(agree) < 0.75


def test_the_seed_decides_the_masks() -> None:
    def masks(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drop = Dropout(0.3)
            return torch.stack([drop(torch.ones(2, 8, 16)) for _ in range(5)])

    assert torch.equal(masks(1), masks(1)) and not torch.equal(masks(1), masks(2))


def test_masks_are_large_enough_for_larger_batches_that_follow() -> None:
    drop = Dropout(0.5)
    drop(torch.ones(1, 2, 3))
    large = drop(torch.ones(1, 700, 1000))
    assert large.shape == (1, 700, 1000) and large.mean() == pytest.approx(1, abs=0.01)


def test_a_pool_that_is_drawn_again_follows_from_the_generator_alone():
    drop, rows = Dropout(0.5), torch.ones(2, 3, 40)
    masks = []
    for calls in (1, 3):  # how much was drawn before is forgotten
        for _ in range(calls):
            drop(rows)
        torch.manual_seed(7)
        drop.redraw()
        masks.append(drop(rows))
    assert torch.equal(*masks)


def test_nothing_is_dropped_in_eval_mode_or_at_a_rate_of_zero() -> None:
    rows = torch.randn(2, 3, 4)
    assert torch.equal(Dropout(0.9).eval()(rows), rows) and torch.equal(Dropout(0.0)(rows), rows)


@pytest.mark.parametrize("fusion", [kind["fusion"] for kind in ALONE])
def test_dropout_is_between_the_layers_of_every_kind_but_the_linear_probe(fusion: str) -> None:
    image, text = draw()
    config = HeadConfig(5, 4, fusion, width=64, depth=0, map_dropout=0.5, dropout=0.0)
    assert torch.equal(*(make(config).train()(image, text) for _ in range(2))) is (fusion == "linear")
    config = HeadConfig(5, 4, fusion, width=64, hidden=64, map_dropout=0.0, dropout=0.5)
    assert not torch.equal(*(make(config).train()(image, text) for _ in range(2)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": "sum"}, {"joint": -1}, {"joint": 5}, {"agreement": 2}, {"centred": "yes"}, {"output": "softmax"}, {"image_dim": 0}, {"text_dim": -1}, {"image_dim": 10**9},
        {"components": -1}, {"components": "all"}, {"spectrum": -1}, {"adapter": -1}, {"adapter": 1.0}, {"width": 0}, {"width": 2.5},
        {"width": 10**7}, {"depth": -1}, {"depth": 65}, {"hidden": True}, {"hidden": 0}, {"dropout": 1.0},
        {"dropout": float("nan")}, {"map_dropout": -0.1}, {"map_dropout": "0.1"},
    ],
)  # fmt: skip
def test_impossible_configs_are_refused_by_name(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"^{name}: expected .* got {value!r}$"):
        HeadConfig(**{"image_dim": 4, "text_dim": 4, **wrong})


def test_the_server_can_import_the_bundle_without_the_tuning_libraries() -> None:
    code = "import sys, head.bundle.format; print({'optuna', 'sklearn', 'matplotlib', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
