"""The text on a meme as the encoder, the cache's keys and the server all take it."""


def clean_text(text: str) -> str:
    """Trim the ends; replace what no UTF-8 file can hold (lone surrogates) and NUL, so that every text has a key. A text
    of nothing that can be seen (zero-width spaces, say) is none."""
    cleaned = text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()
    return cleaned if any(sign.isprintable() and not sign.isspace() for sign in cleaned) else ""
