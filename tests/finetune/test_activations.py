"""Activations of the frozen blocks are cached within the limits; vectors are the same cached or not."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import picture

from cache import DatasetIndex, content_key, text_key
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.unfrozen import Unfreezing, UnfrozenEncoder, load_unfrozen
from finetune import activations
from finetune.activations import ActivationCache, ChangedPicture, Limits

COUNT = 6
# A meme's picture in the demo's encoder, 37 tokens of 96, and its text, 77 of 64, in float32.
IMAGE_BYTES, TEXT_BYTES = 37 * 96 * 4, 77 * 64 * 4


@cache
def encoder() -> UnfrozenEncoder:
    options = EncoderOptions(precision="fp32")
    return load_unfrozen(EncoderRequest("local-dir:demo/encoder", "", options), torch.device("cpu"), Unfreezing(1))


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    """Six memes: the last has the first one's picture, and half share one text."""
    data = [picture(seed % (COUNT - 1)) for seed in range(COUNT)]
    texts = ["the same", "of its own"] * (COUNT // 2)
    texts[1] = "another"
    for number, one in enumerate(data):
        (tmp_path / f"{number}.png").write_bytes(one)
    same = [""] * COUNT
    return DatasetIndex(
        ids=[f"m{number}" for number in range(COUNT)],
        splits=["train"] * COUNT,
        labels=[0, 1] * (COUNT // 2),
        images=[f"{number}.png" for number in range(COUNT)],
        texts=texts,
        image_keys=[content_key(one) for one in data],
        text_keys=[text_key(text) for text in texts],
        skipped=same,
        text_tokens=[4] * COUNT,
        text_cut=[0] * COUNT,
        image_stamps=same,
        spec={},
        source={},
    )


class Counted:
    """Counts what goes through the frozen blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images, self.texts = 0, 0
        begin_images, begin_texts = UnfrozenEncoder.begin_images, UnfrozenEncoder.begin_texts

        def images(own, pixels):
            self.images += len(pixels)
            return begin_images(own, pixels)

        def texts(own, tokens):
            self.texts += len(tokens)
            return begin_texts(own, tokens)

        monkeypatch.setattr(UnfrozenEncoder, "begin_images", images)
        monkeypatch.setattr(UnfrozenEncoder, "begin_texts", texts)


@pytest.mark.parametrize(
    ("room", "disk"),
    [(0, 0), (IMAGE_BYTES * 2 + TEXT_BYTES, 0), (1 << 30, 0), (0, 1 << 30), (IMAGE_BYTES, IMAGE_BYTES * 2)],
)
def test_cached_or_not_vectors_and_gradients_are_the_same(
    room: int, disk: int, index: DatasetIndex, tmp_path: Path
) -> None:
    pixels = [encoder().encoder.pixels((tmp_path / image).read_bytes()) for image in index.images]
    tokens = [encoder().encoder.tokens(text) for text in index.texts]
    expected = (
        encoder().image_features(encoder().begin_images(pixels)),
        encoder().text_features(encoder().begin_texts(tokens), tokens),
    )
    weights = [*encoder().weights.values()]
    slopes = torch.autograd.grad(sum(part.square().sum() for part in expected), weights)
    memes = ActivationCache(encoder(), index, tmp_path, tmp_path / "cache", Limits(room, disk))
    memes.fill(np.arange(COUNT))
    for _ in range(2):
        found = memes.features(np.arange(COUNT))
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        again = torch.autograd.grad(sum(part.square().sum() for part in found), weights)
        for one, other in zip(again, slopes):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_each_picture_and_text_goes_through_the_frozen_blocks_once(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    memes = ActivationCache(encoder(), index, tmp_path, tmp_path / "cache")
    memes.fill(np.arange(COUNT))
    for _ in range(3):
        memes.features(np.array([5, 0, 3]))
    assert (counted.images, counted.texts) == (COUNT - 1, 3)


def test_beyond_the_limits_activations_are_computed_each_time(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    monkeypatch.setattr(activations, "_BATCH", 1)
    memes = ActivationCache(encoder(), index, tmp_path, tmp_path / "cache", Limits(IMAGE_BYTES + TEXT_BYTES, 0))
    memes.fill(np.arange(COUNT))
    filled = counted.images, counted.texts
    assert filled == (1, 1)  # it stops where there is no more room
    memes.features(np.array([0, 1]))
    memes.features(np.array([0, 1]))
    assert (counted.images, counted.texts) == (3, 3)


def test_beyond_the_memory_limit_activations_go_to_disk_and_leave_no_file(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    memes = ActivationCache(encoder(), index, tmp_path, tmp_path / "cache", Limits(IMAGE_BYTES + TEXT_BYTES))
    memes.fill(np.arange(COUNT))
    for _ in range(3):
        memes.features(np.arange(COUNT))
    assert (counted.images, counted.texts) == (COUNT - 1, 3) and not list((tmp_path / "cache").iterdir())


def test_a_picture_that_changes_during_training_is_refused_by_name(index: DatasetIndex, tmp_path: Path) -> None:
    memes = ActivationCache(encoder(), index, tmp_path, tmp_path / "cache")
    (tmp_path / "2.png").write_bytes(picture(99))
    with pytest.raises(ChangedPicture, match=r"2\.png: changed while it was trained on"):
        memes.features(np.array([1, 2]))
