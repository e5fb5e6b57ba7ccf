import numpy as np
import pytest
import torch
from torch.nn import functional as F

from head.model.inputs import Agreement, Inputs, InputsConfig, own_columns

GENERATOR = torch.Generator().manual_seed(0)
# Two cones apart from each other, as CLIP's sides are, and beside them columns of spaces of their own.
IMAGE, TEXT = (torch.randn(40, 12, generator=GENERATOR) + at for at in (3.0, -2.0))
ROWS = [torch.arange(30), torch.arange(10, 40)]


def centred(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(vectors, dim=-1)
    return F.normalize(unit - unit[rows].mean(dim=0), dim=-1)


@pytest.mark.parametrize("centre", [False, True])
def test_one_rotation_serves_both_sides_so_that_products_still_sum_to_the_cosine(centre: bool) -> None:
    agreement = Agreement(2, 8, 8, centre).fit(IMAGE[:, -8:], TEXT[:, -8:], ROWS)
    seen = agreement(IMAGE[:, -8:], TEXT[:, -8:]) * agreement.std + agreement.mean  # (2, 40, 17)
    for member, rows in enumerate(ROWS):
        sides = [side[:, -8:] for side in (IMAGE, TEXT)]
        image, text = ((centred(side, rows) if centre else F.normalize(side, dim=-1)) for side in sides)
        cosine = (image * text).sum(dim=-1)
        torch.testing.assert_close(seen[member, :, 16], cosine, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[member, :, :8].sum(dim=-1), cosine, rtol=1e-4, atol=1e-5)
        distance = (image - text).square().sum(dim=-1)
        torch.testing.assert_close(seen[member, :, 8:16].square().sum(dim=-1), distance, rtol=1e-4, atol=1e-5)


def test_products_differences_and_the_cosine_have_the_same_energy() -> None:
    agreement = Agreement(2, 8, 5, True).fit(IMAGE[:, -8:], TEXT[:, -8:], ROWS)
    for member, rows in enumerate(ROWS):
        seen = agreement(IMAGE[rows][:, -8:], TEXT[rows][:, -8:])[member]
        parts = seen.square().mean(dim=0).split([5, 5, 1])
        assert [float(part.sum()) for part in parts] == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)
        torch.testing.assert_close(seen.mean(dim=0), torch.zeros(11), atol=1e-5, rtol=0)


def test_fitting_looks_at_a_members_own_rows_alone() -> None:
    changed = IMAGE.clone()
    changed[30:] = 7.0  # of the second member alone
    config = InputsConfig(12, 12, 8, ("image", "product", "cosine"))
    for make in (
        lambda image: Inputs(config, 2).fit(image, TEXT, ROWS),
        lambda image: Agreement(2, 8, 4, True).fit(image[:, -8:], TEXT[:, -8:], ROWS),
    ):
        before, after = make(IMAGE).state_dict(), make(changed).state_dict()
        for name, value in before.items():
            first = (slice(None), 0) if name == "centre" else 0
            assert torch.equal(value[first], after[name][first]), name
        assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_sides_own_columns_are_those_outside_the_shared_space() -> None:
    assert own_columns(IMAGE, 8).shape == (40, 4) and own_columns(IMAGE, 0).shape == (40, 12)
    assert own_columns(IMAGE, 12).shape == (40, 12)  # projected features have no others
    config = InputsConfig(12, 10, 8, ("image", "text", "product", "difference", "cosine"))
    assert config.widths == (4, 2, 8, 8, 1) and config.sides == ("image", "text")
    assert InputsConfig(12, 10, 8, ("text",)).sides == ("text",)


def test_constant_columns_and_vectors_of_zeros_give_finite_inputs() -> None:
    still = torch.ones(40, 12)
    for image, text in ((still, TEXT), (torch.zeros(40, 12), torch.zeros(40, 12))):
        inputs = Inputs(InputsConfig(12, 12, 12, ("image", "text", "product", "difference", "cosine")), 2)
        agreement = Agreement(2, 12, 6, True).fit(image, text, ROWS)
        assert np.isfinite(inputs.fit(image, text, ROWS)(image, text).numpy()).all()
        assert np.isfinite(agreement(image, text).numpy()).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"blocks": ()}, "blocks: expected some of"),
        ({"blocks": ("pixels",)}, "blocks: expected some of"),
        ({"joint": 0, "blocks": ("cosine",)}, "need sides that share a space"),
        ({"joint": 13}, "joint: expected at most"),
        ({"image_dim": 0}, "image_dim: expected a whole number"),
        ({"text_dim": 1 << 30}, "text_dim: expected a whole number"),
    ],
)
def test_impossible_inputs_are_refused_by_name(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputsConfig(**{"image_dim": 12, "text_dim": 12, "joint": 8, "blocks": ("image",), **wrong})
