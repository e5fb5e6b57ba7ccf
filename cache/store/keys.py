"""Content keys: SHA-256 of pictures, texts and files."""

import hashlib
from pathlib import Path


def content_key(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits: the key of a picture file, the same for every copy."""
    return hashlib.sha256(data).hexdigest()


def text_key(text: str) -> str:
    """SHA-256 of a text as UTF-8, 64 hex digits. Raises UnicodeEncodeError for lone surrogates."""
    return content_key(text.encode("utf-8"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
