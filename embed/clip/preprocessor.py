"""Preprocess image bytes to pixels and texts to token rows, without a model's weights."""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from cache import require_same_spec
from embed.clip.options import PICTURES, EncoderOptions, library_versions
from embed.clip.tokenizer import Tokenizer, load_tokenizer
from embed.pictures.appearance import RULE
from embed.pictures.decoding import UnreadableImage, decode_stored, see

Picture: TypeAlias = bytes | Image.Image


@dataclass(frozen=True)
class Preprocessor:
    """Preprocessing of one model.

    resize: open_clip's transform of a picture to RGB in the model's input size; picture: of `EncoderOptions`.
    """

    resize: Any
    tokenizer: Tokenizer
    picture: str = field(default=PICTURES[0], kw_only=True)

    def pixels(self, picture: Picture) -> Tensor:
        """The bytes of an image file, or a PIL image -> pixels (H, W, 3) uint8. Raises UnreadableImage."""
        decoded = decode_stored(picture) if isinstance(picture, bytes) else picture
        if self.picture == "seen":
            decoded, _ = see(decoded)
        try:
            return torch.from_numpy(np.array(self.resize(decoded)))
        except MemoryError:
            raise
        # as of Pillow's decoders
        except Exception as error:
            raise UnreadableImage(f"a picture of mode {decoded.mode} that cannot be resized ({error})") from error

    def tokens(self, text: str) -> Tensor:
        """A text -> (P, L) int64: one row, or one per piece."""
        return self.tokenizer.rows(text)

    def token_count(self, text: str) -> int:
        """Number of tokens of a text before truncation, start and end tokens included."""
        return self.tokenizer.count(text)


def load_preprocessor(model: str, spec: dict[str, Any]) -> Preprocessor:
    """The preprocessor of the model with this spec.

    Raises EncoderUnavailable, and SpecMismatch with the fields in which this machine's libraries or files differ.
    """
    transform = image_transform_v2(PreprocessCfg(**spec["preprocess"]), is_train=False)
    options = EncoderOptions.of_spec(spec)
    tokenizer = load_tokenizer(model, options.long_text)
    fields = json.loads(json.dumps(preprocessing_fields(tokenizer, options.picture)))
    require_same_spec({name: spec.get(name) for name in fields}, fields, f"preprocessing on {socket.gethostname()}")
    return Preprocessor(resize_only(transform), tokenizer, picture=options.picture)


def preprocessing_fields(tokenizer: Tokenizer, picture: str) -> dict[str, Any]:
    """The spec's fields on libraries, decoding and tokenizer; picture: of `EncoderOptions`.

    `embed.clip.options.older_spec` turns the fields of "seen" into those of "stored".
    """
    versions, seen = library_versions(), picture == "seen"
    return {
        "open_clip": versions["open_clip_torch"],
        "decoder": {"name": "Pillow", "version": versions["pillow"], "frame": "first", "exif_rotation": seen},
        **({"picture": RULE} if seen else {}),
        "tokenizer": {**tokenizer.spec(), "ftfy": versions["ftfy"]},
    }


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels from the `size` in a spec's "preprocess"; one number means a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def resize_only(transform: Any) -> Any:
    """An open_clip transform without its last two steps, conversion to a tensor and normalisation."""
    *geometry, _, _ = transform.transforms
    return type(transform)(geometry)
