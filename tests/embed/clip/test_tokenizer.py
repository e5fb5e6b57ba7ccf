"""Counting, truncating and chunking texts with CLIP's tokenizer."""

import open_clip
import pytest
import torch

from embed.clip.tokenizer import Tokenizer, load_tokenizer
from embed.clip.weights import EncoderUnavailable


@pytest.fixture(scope="module")
def chunking() -> Tokenizer:
    return load_tokenizer("ViT-B-32", "chunk")


TEXTS = {
    "nothing": "",
    "short": "one two three",
    "long": "the quick brown fox jumps over the lazy dog, " * 30,
    "one word": "x" * 3000,
    "no spaces": "字" * 400,
    "a word first": "yes " + "z" * 900,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pieces_fit_and_leave_nothing_out(chunking: Tokenizer, text: str) -> None:
    pieces = chunking.pieces(text)
    assert all(2 <= chunking.count(piece) <= 77 for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert (len(pieces) == 1) == (chunking.count(text) <= 77)
    assert chunking.rows(text).shape == (len(pieces), 77)


def test_words_stay_whole_and_no_piece_is_less_than_half_of_another(chunking: Tokenizer) -> None:
    text = TEXTS["long"]
    pieces = chunking.pieces(text)
    assert " ".join(pieces).split() == text.split()
    counts = [chunking.count(piece) for piece in pieces]
    assert max(counts) <= 2 * min(counts)


def test_truncation_is_open_clips_own() -> None:
    tokenizer = load_tokenizer("ViT-B-32")
    assert torch.equal(tokenizer.rows(TEXTS["long"]), open_clip.tokenize([TEXTS["long"]]))
    assert tokenizer.count(TEXTS["long"]) == 30 * 10 + 2


def test_the_two_ways_are_two_specs(chunking: Tokenizer) -> None:
    assert chunking.spec() != load_tokenizer("ViT-B-32").spec()


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(EncoderUnavailable, match="near it: ViT-B-32"):
        load_tokenizer("ViT-B32")


def test_the_words_that_open_clip_keeps_are_bounded_and_tokens_do_not_depend_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer("ViT-B-32")
    monkeypatch.setattr("embed.clip.tokenizer._MOST_WORDS", len(tokenizer.wrapped.cache) + 3)
    first = [tokenizer.rows(f"word{letter * 3} seen") for letter in "abcdefgh"]
    assert len(tokenizer.wrapped.cache) <= 6
    unbounded = load_tokenizer("ViT-B-32")
    again = [unbounded.rows(f"word{letter * 3} seen") for letter in "abcdefgh"]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
