"""Texts to token rows: open_clip's own tokenizers, how long a text is, and what becomes of one that is too long.

It knows nothing of models or of vectors; `load_tokenizer` reads a model's name and no weights.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor

from cache import text_key
from embed.base.errors import first_line
from embed.clip.options import LOCAL_DIR
from embed.clip.weights import EncoderUnavailable, find_config, go_offline_unless_reachable

# Far more than the words of any language that memes are written in; some 20 MB.
_MOST_WORDS = 100_000


class _Bounded(dict[str, str]):
    """open_clip keeps every word it ever saw, and a server under random texts would grow for ever. A full dict takes no
    more: forgetting words would need a lock, since several threads look and then read."""

    def __setitem__(self, word: str, pieces: str) -> None:
        if len(self) < _MOST_WORDS:
            super().__setitem__(word, pieces)


@dataclass(frozen=True)
class Tokenizer:
    """An open_clip tokenizer that also counts.

    long_text: what becomes of a text longer than `context_length` tokens, start and end included: "truncate" keeps
    the first ones, as open_clip does; "chunk" cuts it into pieces that fit.
    """

    wrapped: Any
    context_length: int
    long_text: str = "truncate"

    def rows(self, text: str) -> Tensor:
        """A text -> (P, context_length) int64, padded; P is 1, or the number of its pieces."""
        return self.wrapped(self.pieces(text) if self.long_text == "chunk" else [text])

    def count(self, text: str) -> int:
        """Tokens of a text before anything is cut, start and end included."""
        if isinstance(self.wrapped, open_clip.SimpleTokenizer):
            return len(self.wrapped.encode(text)) + 2
        return len(self.wrapped.tokenizer(text)["input_ids"])  # open_clip's wrappers around transformers

    def pieces(self, text: str) -> list[str]:
        """The text halved, at the space nearest its middle, until every piece fits."""
        text = text.strip()
        if self.count(text) <= self.context_length or len(text) < 2:
            return [text]
        spaces = [match.start() for match in re.finditer(r"\s", text)]
        middle = min(spaces, key=lambda place: abs(place - len(text) / 2), default=len(text) // 2)
        return self.pieces(text[:middle]) + self.pieces(text[middle:])

    def save(self, folder: Path) -> None:
        """Write what `local-dir:` loading wants of it into an encoder's folder; nothing where open_clip brings it."""
        if not isinstance(self.wrapped, open_clip.SimpleTokenizer):
            self.wrapped.save_pretrained(folder)

    def spec(self) -> dict[str, Any]:
        """What of it changes a vector."""
        return {
            "name": type(self.wrapped).__name__,
            "context_length": self.context_length,
            "vocabulary_sha256": text_key(json.dumps(sorted(self._vocabulary().items()))),
            "truncation": "mean of pieces" if self.long_text == "chunk" else "first tokens, end token kept",
        }

    def _vocabulary(self) -> dict[str, int]:
        simple = isinstance(self.wrapped, open_clip.SimpleTokenizer)
        return self.wrapped.encoder if simple else self.wrapped.tokenizer.get_vocab()


def load_tokenizer(model: str, long_text: str = "truncate") -> Tokenizer:
    """The tokenizer of an open_clip model. Raises EncoderUnavailable with what to install or to type."""
    config = find_config(model)
    if "hf_tokenizer_name" in config["text_cfg"] and not model.startswith(LOCAL_DIR):
        go_offline_unless_reachable()
    try:
        wrapped = open_clip.get_tokenizer(model)
    except ImportError as error:
        raise EncoderUnavailable(missing_package(model, error)) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise EncoderUnavailable(f"{model}: its tokenizer could not be fetched ({first_line(error)})") from error
    if isinstance(wrapped, open_clip.SimpleTokenizer):
        wrapped.cache = _Bounded(wrapped.cache)
    return Tokenizer(wrapped, int(wrapped.context_length), long_text)


def missing_package(model: str, error: ImportError) -> str:
    """What to say when a model wants packages that the project does not install."""
    return f"{model}: needs packages that are not installed ({error}); pip install transformers sentencepiece"
