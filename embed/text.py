"""The text on a meme as the encoder, the cache's keys and the server all take it."""


def clean_text(text: str) -> str:
    """Trim the ends; replace what no UTF-8 file can hold (lone surrogates) and NUL, so that every text has a key."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()
