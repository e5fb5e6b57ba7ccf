"""A text as encoder, keys and server take it."""

import pytest

from embed.base.text import clean_text, hide_secrets


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a:b@c?d=e.png", "a:b@c?d=e.png"),
        ("s3://bucket/what? a@b.png", "s3://bucket/what? a@b.png"),
        ("abfs://container@account/a.png", "abfs://container@account/a.png"),
        ("https://host/@user/a.png", "https://host/@user/a.png"),
        ("https://token@host/a.png", "https://***@host/a.png"),
        ("s3://key:sec/r@et@bucket/a.png", "s3://***@bucket/a.png"),
        ("zip://a::https://user:pw@host/a?sig=x", "zip://***@host/a?***"),
        ("https://host/a.png?X-Amz-Signature=x?&y", "https://host/a.png?***"),
        ("://" * 40_000, "://" * 40_000),
    ],
)
def test_a_url_is_shown_without_credentials(name: str, shown: str) -> None:
    assert hide_secrets(name) == shown
