"""Clean the texts of memes for encoder and cache keys; hide credentials in URLs."""

# Characters of a meme's text, beyond which a row is a complaint: a book has fewer, and a cell of a million is a quote that
# is not closed. An encoder that truncates takes up to four seconds for so many, whatever they are.
MAX_TEXT = 1_000_000


def clean_text(text: str) -> str:
    """Strip; replace lone surrogates and NUL, so that every text has a key; "" where no character is visible."""
    if text.isascii():
        cleaned = text.replace("\0", " ").strip()
    else:
        cleaned = text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()
    if cleaned.isprintable():  # all of it, the usual case
        return cleaned
    return cleaned if any(sign.isprintable() and not sign.isspace() for sign in cleaned) else ""


def hide_secrets(name: str) -> str:
    """A picture's name to print and store: a URL loses user, password and signature."""
    scheme, is_url, rest = name.partition("://")
    if not is_url:
        return name
    user, at, place = rest.rpartition("@")
    # A password may contain a slash; in abfs://container@account the part before the @ is not a password.
    if ":" in user or (scheme.lower() in ("http", "https") and at and "/" not in user):
        rest = f"***@{place}"
    path, _, query = rest.partition("?")
    return f"{scheme}://{path}?***" if "=" in query else f"{scheme}://{rest}"
