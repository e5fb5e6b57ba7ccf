"""Thumbnails of untrusted picture files as data URIs, for the audit's page and the report's gallery."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from embed.pictures.decoding import decode_picture, in_rgb
from embed.pictures.hashing import read_picture

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# WebP quality without visible artefacts at this size; about 12 kB for 320 pixels.
_QUALITY = 70


def thumbnail(path: "Path | RemotePath", side: int) -> str:
    """A picture file as a WebP data URI, longer side at most `side` pixels; "" if unreadable or too large."""
    try:
        picture = in_rgb(decode_picture(read_picture(path)))
    except ValueError:  # UnusableFile, UnreadableImage, and a name with a NUL
        return ""
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
