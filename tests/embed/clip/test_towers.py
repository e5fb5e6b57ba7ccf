"""The towers against open_clip's encode methods, on `small_clip`; `make bench-embed` compares a full ViT-B-32."""

import copy
import gc
import logging
from collections.abc import Iterator

import pytest
import torch
from machine import batch_tolerance
from small_clip import small_clip
from torch import Tensor, nn
from torch.nn import functional as F

from embed.clip.hardware import has_products
from embed.clip.towers import _StockTower, image_tower, text_tower
from embed.clip.weights import EncoderUnavailable

# A plain transformer, a large one, one with QuickGELU, one with attention pooling and no causal mask, a convolutional
# one, and one with its own encode methods.
MODELS = ["ViT-B-32", "ViT-L-14", "ViT-B-32-quickgelu", "ViT-B-16-SigLIP", "RN50", "coca_ViT-B-32"]
BOTH = {"image", "text"}
QUICK = {"ViT-B-32": BOTH, "ViT-L-14": BOTH, "ViT-B-32-quickgelu": BOTH, "RN50": {"text"}}
FP32, BF16 = torch.float32, torch.bfloat16
# Otherwise products of the rounded weights are computed in float32.
NATIVE = has_products("bf16", torch.device("cpu"))


class Reference:
    """A model's name, pictures and texts of different length, and open_clip's float32 vectors of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._clip = clip = small_clip(name)
        size, text = clip.visual.image_size, getattr(clip, "text", clip)
        pixels = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
        tokens = torch.zeros(3, text.context_length, dtype=torch.long)
        for row, length in zip(tokens, (20, 41, text.context_length)):
            row[:length] = torch.randint(1, text.vocab_size - 1, (length,))
            row[length - 1] = text.vocab_size - 1  # the end token, the highest
        self.batches = (pixels, tokens)
        with torch.inference_mode():
            self.expected = (clip.encode_image(pixels), clip.encode_text(tokens))

    def model(self, precision: str = "fp32") -> nn.Module:
        """A model of its own with the same random weights."""
        return copy.deepcopy(self._clip) if precision == "fp32" else small_clip(self.name, precision)


def both_towers(clip: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    return image_tower(clip, "projected", dtype), text_tower(clip, "projected", dtype)


@pytest.fixture(scope="module", params=MODELS)
def reference(request: pytest.FixtureRequest) -> Iterator[Reference]:
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    yield Reference(request.param)
    logging.disable(logging.NOTSET)
    gc.collect()


def angle(one: Tensor, other: Tensor) -> float:
    """The largest 1 - cosine between corresponding rows."""
    return float((1 - F.cosine_similarity(one.double(), other.double())).max())


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference between corresponding rows, both normalised."""
    return float((F.normalize(one) - F.normalize(other)).abs().max())


@torch.inference_mode()
def test_float32_is_open_clips_own_and_neither_batch_nor_threads_change_a_vector(reference: Reference) -> None:
    threads = torch.get_num_threads()
    for tower, batch, expected in zip(both_towers(reference.model(), FP32), reference.batches, reference.expected):
        together = tower(batch)
        assert (together - expected).abs().max() <= 1e-5
        try:
            torch.set_num_threads(1)
            alone = tower(batch[:1])
        finally:
            torch.set_num_threads(threads)
        assert difference(alone, together[:1]) <= 1e-6


@torch.inference_mode()
def test_bfloat16_is_near_and_no_vector_depends_on_its_batch(reference: Reference) -> None:
    if reference.name.startswith("coca") and NATIVE:  # the encoder therefore uses float32 for CoCa on every machine
        with pytest.raises(RuntimeError, match="dtype"):
            both_towers(reference.model("bf16"), BF16)[0](reference.batches[0])
        return
    clip = reference.model("bf16")
    towers = both_towers(clip, BF16) if NATIVE else both_towers(clip.float(), FP32)
    for tower, batch, expected in zip(towers, reference.batches, reference.expected):
        together = tower(batch)
        assert 0 < angle(together, expected) <= 5e-4
        assert difference(tower(batch[:1]), together[:1]) <= batch_tolerance("bf16")


@torch.inference_mode()
def test_a_batch_of_texts_may_be_cut_before_it_goes_to_a_gpu(reference: Reference) -> None:
    for features in ("projected", "both"):
        tower, tokens = text_tower(reference.model(), features, FP32), reference.batches[1][:2]
        cut = tower.cut(tokens)
        assert cut.shape[1] == (41 if "text" in QUICK.get(reference.name, ()) else tokens.shape[1])
        assert torch.equal(tower(cut), tower(tokens))


def test_the_plain_towers_are_the_quick_ones(reference: Reference) -> None:
    sides = zip(("image", "text"), both_towers(reference.model(), FP32))
    assert {side for side, tower in sides if not isinstance(tower, _StockTower)} == QUICK.get(reference.name, set())


@torch.inference_mode()
def test_pooled_features_are_what_the_projection_takes(reference: Reference) -> None:
    (pixels, tokens), (image, text) = reference.batches, reference.expected
    clip = reference.model()
    visual = clip.visual
    if reference.name in ("RN50", "ViT-B-16-SigLIP"):  # their pooling includes the projection
        with pytest.raises(EncoderUnavailable, match="has no projection to leave out"):
            image_tower(clip, "pooled", FP32)
    else:
        projection = visual.proj
        assert angle(image_tower(clip, "pooled", FP32)(pixels) @ projection, image) <= 1e-6
        visual.proj = projection
    tower = getattr(clip, "text", clip)
    projection = tower.text_projection
    pooled = text_tower(clip, "pooled", FP32)(tokens)
    tower.text_projection = projection
    assert angle(projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection, text) <= 1e-6


@pytest.mark.parametrize("reference", ["ViT-B-32", "ViT-B-16-SigLIP", "RN50", "coca_ViT-B-32"], indirect=True)
@torch.inference_mode()
def test_both_features_are_the_pooled_ones_and_the_projected_ones_of_one_pass(reference: Reference) -> None:
    sides = ("text",) if reference.name in ("RN50", "ViT-B-16-SigLIP") else ("image", "text")
    make = {"image": image_tower, "text": text_tower}
    for side, batch, projected in zip(("image", "text"), reference.batches, reference.expected):
        if side in sides:
            pooled = make[side](reference.model(), "pooled", FP32)(batch)
            both = make[side](reference.model(), "both", FP32)(batch)
            assert both.shape[1] == pooled.shape[1] + projected.shape[1]
            assert angle(both[:, : pooled.shape[1]], pooled) <= 1e-6
            assert angle(both[:, pooled.shape[1] :], projected) <= 1e-6
