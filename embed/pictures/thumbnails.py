"""Small copies of pictures, to stand in an HTML page itself. The files are hostile.

It knows nothing of pages or of where pictures are looked for. The audit's page and the report's gallery use it.
"""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from embed.pictures.decoding import decode_picture
from embed.pictures.hashing import read_picture

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# No artefacts that the eye meets at such a size, at about 12 kB for 320 pixels.
_QUALITY = 70


def thumbnail(path: "Path | RemotePath", side: int) -> str:
    """The data URI of a WebP of a picture file, its longer side at most `side` pixels; "" for what cannot be shown: a
    file that cannot be read, that is too large, or that is no picture."""
    try:
        picture = decode_picture(read_picture(path)).convert("RGB")
    except ValueError:  # UnusableFile, UnreadableImage, and a name with a NUL
        return ""
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
