"""The text on a meme as the encoder, the cache's keys and the server all take it; URLs as they may be shown."""


def clean_text(text: str) -> str:
    """Trim the ends; replace what no UTF-8 file can hold (lone surrogates) and NUL, so that every text has a key. A text
    of nothing that can be seen (zero-width spaces, say) is none."""
    cleaned = text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()
    return cleaned if any(sign.isprintable() and not sign.isspace() for sign in cleaned) else ""


def hide_secrets(name: str) -> str:
    """A picture's name as it may be printed and kept: of a URL, without user, password and signature."""
    scheme, is_url, rest = name.partition("://")
    if not is_url:
        return name
    user, at, place = rest.rpartition("@")
    # A password may hold a slash; the part before the @ in abfs://container@account is none.
    if ":" in user or (scheme.lower() in ("http", "https") and at and "/" not in user):
        rest = f"***@{place}"
    path, _, query = rest.partition("?")
    return f"{scheme}://{path}?***" if "=" in query else f"{scheme}://{rest}"
