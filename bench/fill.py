"""Fill a cache by the real job with the tests' fake encoder in place of CLIP, for `bench.plan`.

    python -m bench.fill --data FOLDER --model NAME --pretrained FILE --artifacts FOLDER

Vectors have 512 dimensions, as ViT-B/32's, so that the cache has a realistic size.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from bench.machine import say
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
from tests.fakes import FakeEncoder

_WIDTH = 512
_SPEC = {"model": "fake", "feature": "projected", "dtype": "float32", "tokenizer": {"context_length": 77}}


class _WideEncoder(FakeEncoder):
    def image_features(self, pixels: Sequence[Tensor]) -> Tensor:
        return _widened(super().image_features(pixels))

    def text_features(self, tokens: Sequence[Tensor]) -> Tensor:
        return _widened(super().text_features(tokens))


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description="Fill a cache without a model.")
    for name in ("data", "model", "pretrained"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    settings = EmbedSettings(**vars(parser.parse_args()))
    encoder = _WideEncoder(Path(settings.pretrained), spec=_SPEC)
    with patch("embed.clip.encoder.load_encoder", lambda *_, **__: encoder):
        embed_dataset(settings, say=say)


def _widened(vectors: Tensor) -> Tensor:
    """(N, d) -> (N, 512), by repeating columns."""
    return vectors[:, torch.arange(_WIDTH) % vectors.shape[1]]


if __name__ == "__main__":
    main()
