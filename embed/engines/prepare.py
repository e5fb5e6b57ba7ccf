"""Preprocess one picture file or text for the encoder; errors are returned, not raised."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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

    tensor: pixels (H, W, 3) uint8 or token rows (P, L) int64, None when it failed; tokens: token count before
    truncation; failure: why there is no tensor; lasting: whether a retry would fail the same way.
    """

    key: str
    tensor: Tensor | None
    tokens: int = 0
    failure: str = ""
    lasting: bool = True

    def without_tensor(self) -> "Prepared":
        """The same item after its tensor was used."""
        return replace(self, tensor=None)


class InputEncoder(Protocol):
    """Preprocessing of an encoder; see `embed.clip.preprocessor.Preprocessor`."""

    def pixels(self, data: bytes, /) -> Tensor: ...

    def tokens(self, text: str, /) -> Tensor: ...

    def token_count(self, text: str, /) -> int: ...


def preparer(kind: str, inputs: InputEncoder, root: Path) -> Callable[[str, str], Prepared]:
    """A function (key, image path under `root`) or (key, text) -> Prepared, for kind "image" or "text"."""
    return partial(_picture, inputs, root) if kind == "image" else partial(_text, inputs)


def _picture(inputs: InputEncoder, root: Path, key: str, image: str) -> Prepared:
    try:
        data = read_picture(root / image)
        if content_key(data) != key:
            return Prepared(key, None, failure="the file changed while the job ran; run it again", lasting=False)
        return Prepared(key, inputs.pixels(data))
    except UnreadableImage as error:
        return Prepared(key, None, failure=str(error))
    except UnusableFile as error:
        return Prepared(key, None, failure=str(error), lasting=False)


def _text(inputs: InputEncoder, key: str, text: str) -> Prepared:
    return Prepared(key, inputs.tokens(text), inputs.token_count(text))
