"""What an encoder takes in: image bytes to pixels, texts to token rows. It needs a model's name, and no weights.

The one way in for batch job, server and workers that only prepare; `embed.clip.encoder.ClipEncoder` is one of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from embed.clip.options import EncoderOptions
from embed.clip.tokenizer import Tokenizer, load_tokenizer
from embed.pictures.decoding import UnreadableImage, decode_picture


@dataclass(frozen=True)
class Preprocessor:
    """resize: a picture -> an RGB picture of the model's size, by open_clip's own transform."""

    resize: Any
    tokenizer: Tokenizer

    def pixels(self, data: bytes) -> Tensor:
        """Image bytes -> (H, W, 3) uint8. Raises UnreadableImage."""
        picture = decode_picture(data)
        try:
            return torch.from_numpy(np.array(self.resize(picture)))
        except (ValueError, OSError) as error:
            raise UnreadableImage(f"a picture of mode {picture.mode} that cannot be resized ({error})") from error

    def tokens(self, text: str) -> Tensor:
        """A text -> (P, L) int64: one row, or one for each of its pieces."""
        return self.tokenizer.rows(text)

    def token_count(self, text: str) -> int:
        """Tokens of a text before it is cut, start and end included."""
        return self.tokenizer.count(text)


def load_preprocessor(model: str, spec: dict[str, Any]) -> Preprocessor:
    """What an encoder of this name and spec takes in. Raises EncoderUnavailable."""
    transform = image_transform_v2(PreprocessCfg(**spec["preprocess"]), is_train=False)
    return Preprocessor(resize_only(transform), load_tokenizer(model, EncoderOptions.of_spec(spec).long_text))


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """In pixels, of the `size` in a spec's "preprocess", where one number stands for a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def resize_only(transform: Any) -> Any:
    """An open_clip transform without its last two steps: to numbers, and to the model's mean and deviation."""
    *geometry, _, _ = transform.transforms
    return type(transform)(geometry)
