"""Counting, truncating and chunking texts with CLIP's tokenizer."""

from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.clip.bpe import merge
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


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return load_tokenizer("ViT-B-32")


@pytest.fixture(scope="module")
def stock() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


# Letters with many merges between them, few different ones so that pairs repeat, and any others.
_WORDS = st.one_of(*(st.text(letters, max_size=60) for letters in ("ha", "etaoinshr", "lo'!.", "é字😂")), st.text())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(_WORDS, max_size=4).map(" ".join))
def test_tokens_are_open_clips_own(ours: Tokenizer, stock: open_clip.SimpleTokenizer, text: str) -> None:
    assert ours.wrapped.encode(text) == stock.encode(text)


def test_the_merges_of_a_pair_all_come_before_those_of_the_pair_that_they_make() -> None:
    # (abc, a) has a lower rank than (a, bc), which makes abc: merging it first would leave the second bc alone
    ranks = {("b", "c"): 0, ("abc", "a"): 1, ("a", "bc"): 2}
    assert merge([*"abcabc"], ranks) == ["abc", "abc"]
    assert merge([*"abcab"], ranks) == ["abca", "b"]


def test_a_long_word_takes_steps_in_proportion() -> None:
    class Counted(dict[tuple[str, str], int]):
        steps = 0

        def get(self, *arguments: Any) -> Any:
            self.steps += 1
            return super().get(*arguments)

    ranks = Counted({("a" * 2**n, "a" * 2**n): n for n in range(10)})
    assert merge(["a"] * 60_000, ranks) == ["a" * 1024] * 58 + ["a" * 512, "a" * 64, "a" * 32]
    assert ranks.steps < 8 * 60_000


@pytest.mark.parametrize("kind", ["truncate", "chunk"])
def test_a_long_word_is_read_and_not_kept(kind: str) -> None:  # with open_clip's own method this takes many minutes
    tokenizer = load_tokenizer("ViT-B-32", kind)
    before = set(tokenizer.wrapped.cache)
    assert tokenizer.rows("字" * 60_000).shape == (2048 if kind == "chunk" else 1, 77)
    assert tokenizer.count("字" * 60_000) == 120_002
    assert max(map(len, tokenizer.wrapped.cache.keys() - before), default=0) < 100


@pytest.mark.parametrize("escape", ["amp;", "#38;", "AMP;", "#x26;"])
def test_escapes_of_escapes_are_read_at_once(ours: Tokenizer, escape: str) -> None:  # ftfy: one level in each pass
    assert ours.wrapped.encode("you &" + escape * 15_000 + " me") == ours.wrapped.encode("you & me")


@pytest.mark.parametrize(
    "text", ["&#" + "1" * 5000, "＆＃" + "１" * 5000, "&#" + "&#49;" * 5000, "a & b &#" + "7" * 9999]
)
def test_a_number_too_long_for_pythons_html_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        open_clip.tokenize([text])
    assert load_tokenizer("ViT-B-32").count(text) > 5000


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
