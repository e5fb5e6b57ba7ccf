"""Fine-tuning models: a split tower equals the original, and the delta holds the changed weights."""

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from fakes import picture
from small_clip import small_clip
from torch import Tensor, nn

from embed.clip.delta import DELTA, write_delta
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.towers import Tower
from embed.clip.unfrozen import SIDES, Unfreezing, UnfrozenEncoder, load_unfrozen
from embed.clip.weights import EncoderUnavailable

CPU = torch.device("cpu")
ENCODER = "local-dir:demo/encoder"
LONG = "one word after another " * 40
TEXTS = ("", "a few words", LONG)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # open_clip warns that some weights are random
    yield
    logging.disable(logging.NOTSET)


def unfrozen(unfreezing: Unfreezing, seed: int = 0, **options: str) -> UnfrozenEncoder:
    return load_unfrozen(
        EncoderRequest(ENCODER, "", EncoderOptions(precision="fp32", **options)), CPU, unfreezing, seed
    )


@cache
def frozen(**options: str) -> ClipEncoder:
    return load_encoder(ENCODER, "", CPU, EncoderOptions(precision="fp32", **options))


def features(encoder: UnfrozenEncoder) -> tuple[Tensor, Tensor]:
    pixels = [encoder.encoder.pixels(picture(seed)) for seed in range(3)]
    tokens = [encoder.encoder.tokens(text) for text in TEXTS]
    return (
        encoder.image_features(encoder.begin_images(pixels)),
        encoder.text_features(encoder.begin_texts(tokens), tokens),
    )


def expected(encoder: ClipEncoder) -> tuple[Tensor, Tensor]:
    pixels = [encoder.pixels(picture(seed)) for seed in range(3)]
    return encoder.image_features(pixels), encoder.text_features([encoder.tokens(text) for text in TEXTS])


def step(encoder: UnfrozenEncoder) -> None:
    """One optimizer step on every trainable weight."""
    sum(part.square().mean() for part in features(encoder)).backward()
    torch.optim.SGD([*encoder.weights.values()], lr=0.1).step()
    for weight in encoder.weights.values():
        weight.grad = None


@pytest.mark.parametrize(
    ("unfreezing", "options"),
    [
        (Unfreezing(2), {}),
        (Unfreezing(1, ("image",)), {"features": "pooled"}),
        (Unfreezing(1), {"features": "both"}),
        (Unfreezing(2, SIDES, 4), {"long_text": "chunk"}),
    ],
)
def test_before_it_learns_a_divided_model_is_the_encoder(unfreezing: Unfreezing, options: dict[str, str]) -> None:
    for ours, theirs in zip(features(unfrozen(unfreezing, **options)), expected(frozen(**options))):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("unfreezing", "options"),
    [
        (Unfreezing(2), {}),
        (Unfreezing(1, ("text",)), {"features": "pooled"}),
        (Unfreezing(1), {"features": "both"}),
        (Unfreezing(2, SIDES, 4), {}),
    ],
)
def test_what_learnt_serves_as_a_delta(unfreezing: Unfreezing, options: dict[str, str], tmp_path: Path) -> None:
    encoder = unfrozen(unfreezing, **options)
    assert not encoder.delta()
    step(encoder)
    step(encoder)  # with B initially zero, the first step does not change A
    write_delta(tmp_path / DELTA, encoder.delta())
    served = load_encoder(ENCODER, "", CPU, EncoderOptions(precision="fp32", **options), tmp_path / DELTA)
    before, after = expected(frozen(**options)), expected(served)
    for side, ours, theirs, once in zip(SIDES, features(encoder), after, before):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)
        assert (side in unfreezing.sides) == (not torch.allclose(theirs, once, atol=1e-4))


def test_gradients_are_those_of_the_whole_model() -> None:
    encoder = unfrozen(Unfreezing(2))
    pixels, tokens = [encoder.encoder.pixels(picture(0))], [encoder.encoder.tokens("a few words")]
    image = encoder.image_features(encoder.begin_images(pixels))
    text = encoder.text_features(encoder.begin_texts(tokens), tokens)
    (image.square().sum() + text.square().sum()).backward()

    clip = open_clip.create_model(ENCODER).eval()
    batch = (pixels[0].permute(2, 0, 1)[None] / 255 - encoder.encoder.mean) / encoder.encoder.std
    (clip.encode_image(batch).square().sum() + clip.encode_text(tokens[0]).square().sum()).backward()
    theirs = dict(clip.named_parameters())
    for name, weight in encoder.weights.items():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_blocks_learn_and_what_comes_after_them_as_open_clip_unlocks_them(blocks: int) -> None:
    clip = open_clip.create_model(ENCODER)
    clip.lock_image_tower(unlocked_groups=blocks + 1)
    clip.lock_text_tower(unlocked_layers=blocks + 1)
    theirs = {name for name, weight in clip.named_parameters() if weight.requires_grad} - {"logit_scale"}
    assert unfrozen(Unfreezing(blocks)).weights.keys() == theirs


@pytest.mark.parametrize("features", ["pooled", "both"])
def test_without_a_projection_none_learns_and_beside_pooled_features_it_stays(features: str) -> None:
    names = unfrozen(Unfreezing(1), features=features).weights
    assert not {"visual.proj", "text_projection"} & names.keys() and "visual.ln_post.weight" in names


def test_low_rank_changes_are_of_every_matrix_of_the_blocks() -> None:
    weights = unfrozen(Unfreezing(1, ("image",), 4)).weights
    block = "visual.transformer.resblocks.3."
    matrices = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    assert weights.keys() == {f"{block}{name}.{factor}" for name in matrices for factor in ("lora_A", "lora_B")}
    assert weights[f"{block}attn.in_proj_weight.lora_A"].shape == (4, 96)
    assert weights[f"{block}attn.in_proj_weight.lora_B"].shape == (288, 4)


def test_the_seed_draws_the_low_rank_changes() -> None:
    one, same, other = (unfrozen(Unfreezing(1, ("text",), 2), seed).weights for seed in (0, 0, 1))
    name = "transformer.resblocks.1.attn.in_proj_weight.lora_A"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


class Whole:
    """A model with an encoder that has no tokenizer."""

    def __init__(self, name: str) -> None:
        self.clip: nn.Module = small_clip(name)
        size = self.clip.visual.image_size
        size = size if isinstance(size, tuple) else (size, size)
        self.encoder: Any = ClipEncoder(
            image_tower=Tower(),
            text_tower=Tower(),
            resize=None,
            mean=torch.zeros(3, 1, 1),
            std=torch.ones(3, 1, 1),
            tokenizer=None,  # type: ignore[arg-type]
            device=CPU,
            spec={"feature": "projected", "preprocess": {"size": size}},
            weights=Path(),
        )
        self.pixels = torch.randint(256, (1, *size, 3), dtype=torch.uint8)


def test_towers_of_timm_are_divided_as_well() -> None:
    whole = Whole("ViT-B-16-SigLIP")
    ours = UnfrozenEncoder(whole.encoder, whole.clip, Unfreezing(1), 0)
    length = whole.clip.text.context_length
    tokens = [torch.randint(1, 100, (1, length))]
    with torch.no_grad():
        image, text = whole.clip.encode_image(whole.pixels.permute(0, 3, 1, 2) / 255), whole.clip.encode_text(tokens[0])
        torch.testing.assert_close(ours.image_features(ours.begin_images([*whole.pixels])), image, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.text_features(ours.begin_texts(tokens), tokens), text, rtol=1e-4, atol=1e-4)
    parts = {name.split(".")[1] + "." + name.split(".")[2] for name in ours.weights if name.startswith("visual.trunk")}
    assert parts == {"trunk.blocks", "trunk.norm", "trunk.attn_pool"}
    assert {"visual.trunk.blocks.1.attn.qkv.weight", "text.text_projection.weight"} <= ours.weights.keys()


def test_a_tower_without_blocks_is_refused_in_a_sentence() -> None:
    whole = Whole("RN50")
    with pytest.raises(
        EncoderUnavailable, match=r"image tower \(ModifiedResNet\) has no transformer blocks.*--towers text"
    ):
        UnfrozenEncoder(whole.encoder, whole.clip, Unfreezing(1), 0)
    assert UnfrozenEncoder(whole.encoder, whole.clip, Unfreezing(1, ("text",)), 0).weights


def test_more_blocks_than_a_tower_has_are_refused() -> None:
    with pytest.raises(EncoderUnavailable, match="expected 1 to 2, as this model's text tower has, got 3"):
        unfrozen(Unfreezing(3))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"blocks": 0}, "at least 1, got 0"), ({"rank": -1}, "at least 0, got -1"), ({"sides": ()}, "image, text, got")],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Unfreezing(**wrong)
