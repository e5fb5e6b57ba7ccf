"""One picture's file or one text, made ready for the encoder: what any worker does, on this machine or another.

It knows neither models' weights nor stores; what goes wrong with an item is in what it returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from cache import content_key
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture


@dataclass(frozen=True)
class Prepared:
    """One item, ready for the encoder.

    tensor: pixels (H, W, 3) or token rows (P, L), None when it failed; tokens: their number before truncation;
    failure: why there is no tensor; lasting: whether trying again would end the same way.
    """

    key: str
    tensor: Tensor | None
    tokens: int = 0
    failure: str = ""
    lasting: bool = True


class Preparing(Protocol):
    """What of an encoder it takes; see `embed.clip.preprocessor.Preprocessor`."""

    def pixels(self, data: bytes, /) -> Tensor: ...

    def tokens(self, text: str, /) -> Tensor: ...

    def token_count(self, text: str, /) -> int: ...


def preparer(kind: str, inputs: Preparing, root: Path) -> Callable[[str, str], Prepared]:
    """From a key and an image's path under `root`, or a key and a text, to the item made ready."""
    return partial(_picture, inputs, root) if kind == "image" else partial(_text, inputs)


def _picture(inputs: Preparing, root: Path, key: str, image: str) -> Prepared:
    try:
        data = read_picture(root / image)
        if content_key(data) != key:
            return Prepared(key, None, failure="the file changed while the job ran; run it again", lasting=False)
        return Prepared(key, inputs.pixels(data))
    except UnreadableImage as error:
        return Prepared(key, None, failure=str(error))
    except UnusableFile as error:
        return Prepared(key, None, failure=str(error), lasting=False)


def _text(inputs: Preparing, key: str, text: str) -> Prepared:
    return Prepared(key, inputs.tokens(text), inputs.token_count(text))
