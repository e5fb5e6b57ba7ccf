"""Keys of the cache: what a vector was made from, named by its content alone."""

import hashlib
from pathlib import Path


def content_key(data: bytes) -> str:
    """SHA-256 of an image file's bytes, 64 hex digits. A changed picture is a new key; a copy is the same one."""
    return hashlib.sha256(data).hexdigest()


def text_key(text: str) -> str:
    """SHA-256 of a text as UTF-8, 64 hex digits. Raises UnicodeEncodeError for lone surrogates."""
    return content_key(text.encode("utf-8"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
