"""Tokenize texts with open_clip's tokenizers, count tokens, truncate or split long texts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from cache import text_key
from embed.base.errors import first_line
from embed.clip import hugging_face
from embed.clip.bpe import merge
from embed.clip.options import LOCAL_DIR
from embed.clip.weights import EncoderUnavailable, find_config, go_offline_unless_reachable

# Size limit of the word cache: far more words than memes use; about 20 MB, with the longest words 50 MB.
_MOST_WORDS = 100_000
# `html.unescape` refuses numbers of more than 4,300 digits, also those that it makes itself.
_AMPERSANDS = str.maketrans({"&": " ", "\N{FULLWIDTH AMPERSAND}": " "})
# "&amp;amp;amp;...": ftfy decodes one level in each pass over the text. Nobody escapes a text so often.
_NESTED_ESCAPES = re.compile(r"(?:(?:amp|#0*38|#x0*26);){20,}", re.IGNORECASE)
# Longer words, in bytes of UTF-8, are rare, and one of 60,000 letters would keep its memory for good.
_LONGEST_KEPT = 40


class _BoundedCache(dict[str, str]):
    """open_clip's word cache with a size limit, so that random texts do not fill a server's memory.

    A full cache rejects new words, and any cache long ones. Eviction would need a lock: threads test for a word and then
    read it.
    """

    def __setitem__(self, word: str, pieces: str) -> None:
        if len(self) < _MOST_WORDS and len(word) <= _LONGEST_KEPT:
            super().__setitem__(word, pieces)


@dataclass(frozen=True)
class Tokenizer:
    """An open_clip tokenizer that also counts tokens and splits texts.

    long_text: treatment of a text of more than `context_length` tokens, start and end tokens included: "truncate" keeps
    the first ones, as open_clip does; "chunk" splits it into pieces that fit.
    """

    wrapped: Any
    context_length: int
    long_text: str = "truncate"

    def rows(self, text: str) -> Tensor:
        """A text -> (P, context_length) int64, padded; P is 1, or the number of pieces."""
        pieces = self.pieces(text) if self.long_text == "chunk" else [text]
        if self._is_clips_own:
            return self.wrapped(pieces)
        return torch.stack([hugging_face.encode(self.wrapped, piece)[0] for piece in pieces])

    def count(self, text: str) -> int:
        """Number of tokens of a text before truncation, start and end tokens included."""
        if self._is_clips_own:
            return len(self.wrapped.encode(text)) + 2
        return hugging_face.encode(self.wrapped, text)[1]

    def pieces(self, text: str) -> list[str]:
        """The text, split recursively at the space nearest its middle until every piece fits."""
        text = text.strip()
        if len(text) < 2 or self._fits(text):
            return [text]
        spaces = [match.start() for match in re.finditer(r"\s", text)]
        middle = min(spaces, key=lambda place: abs(place - len(text) / 2), default=len(text) // 2)
        return self.pieces(text[:middle]) + self.pieces(text[middle:])

    def _fits(self, text: str) -> bool:
        if not self._is_clips_own:
            # pieces, and so the vectors of existing stores, follow from the text before it is cleaned
            return hugging_face.count(self.wrapped, text) <= self.context_length
        # a long text cannot fit, whatever its tokens
        letters = len(self.wrapped.clean_fn(text).replace(" ", "").encode())
        return letters <= self.context_length * self._longest_token and self.count(text) <= self.context_length

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token, or more."""
        return max(map(len, self._vocabulary()))

    def save(self, folder: Path) -> None:
        """Write the files for `local-dir:` into `folder`; none for open_clip's own tokenizer. Raises OSError."""
        if not self._is_clips_own:
            self.wrapped.save_pretrained(folder)

    def spec(self) -> dict[str, Any]:
        """The properties that affect vectors, for the feature spec."""
        return {
            "name": type(self.wrapped).__name__,
            "context_length": self.context_length,
            "vocabulary_sha256": text_key(json.dumps(sorted(self._vocabulary().items()))),
            "truncation": "mean of pieces" if self.long_text == "chunk" else "first tokens, end token kept",
        }

    def _vocabulary(self) -> dict[str, int]:
        return self.wrapped.encoder if self._is_clips_own else self.wrapped.tokenizer.get_vocab()

    @property
    def _is_clips_own(self) -> bool:
        return isinstance(self.wrapped, open_clip.SimpleTokenizer)


def load_tokenizer(model: str, long_text: str = "truncate") -> Tokenizer:
    """The tokenizer of an open_clip model. Raises EncoderUnavailable with a remedy."""
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
        wrapped.cache = _BoundedCache(wrapped.cache)
        wrapped.bpe = partial(_bpe, wrapped)
    else:
        hugging_face.freeze(wrapped)
    wrapped.clean_fn = partial(_clean, wrapped.clean_fn)
    return Tokenizer(wrapped, int(wrapped.context_length), long_text)


def _clean(clean: Callable[[str], str], text: str) -> str:
    """open_clip's cleaning, in linear time and without its ValueError; equal but for absurd escapes of HTML."""
    text = _NESTED_ESCAPES.sub("amp;", text)
    try:
        return clean(text)
    except ValueError:
        return clean(text.translate(_AMPERSANDS))


def _bpe(wrapped: open_clip.SimpleTokenizer, word: str) -> str:
    """`SimpleTokenizer.bpe`, with the same symbols, in n log n time."""
    symbols = wrapped.cache.get(word)
    if symbols is None:
        symbols = " ".join(merge([*word[:-1], word[-1] + "</w>"], wrapped.bpe_ranks))
        wrapped.cache[word] = symbols
    return symbols


def missing_package(model: str, error: ImportError) -> str:
    """The error message for a model that needs packages that the project does not install."""
    return f"{model}: needs packages that are not installed ({error}); pip install transformers sentencepiece"
