"""A text as encoder, keys and server take it."""

import pytest

from embed.text import clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  two words\n", "two words"),
        ("a\0b", "a b"),
        ("lone \udc80 half", "lone ? half"),
        ("\u200bvisible", "\u200bvisible"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("ा", "ा"),  # a vowel sign alone
        ("\u200b", ""),
        ("\u200b \u200e\ufeff\u00ad", ""),
        (" \0 ", ""),
        ("", ""),
    ],
)
def test_what_is_left_of_a_text(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
