"""Small copies of the memes' pictures, to stand in the page itself. The names, the links and the files are hostile.

It opens a picture only through the embedding room's finder and decoder. `python -m report` uses it for the gallery.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from embed.base.threads import run_ahead
from embed.pictures.decoding import decode_picture
from embed.pictures.hashing import read_picture
from embed.pictures.locate import Finder, open_pictures

# Of the longer side, in pixels: sharp at the gallery's width on a screen of common density.
_SIDE = 320
# No artefacts that the eye meets at this size, at about 12 kB.
_QUALITY = 70


def thumbnails(data: str, images: Iterable[str], place: str = "") -> dict[str, str]:
    """{image: data URI of a WebP} of the pictures that can be shown; the others are left out.

    data: the data folder, or its one table, as given to the embedding job; place: its IMAGES; images: paths inside
    either. A file that is gone, that a link leads out of the folder to, or that is no picture cannot be shown.
    """
    if not data or not (place or Path(data).exists()):
        return {}
    try:
        root, finder = open_pictures({"data": data, "images": place})
    except ValueError:  # no such folder, a URL whose package is not installed
        return {}
    names = list(dict.fromkeys(images))
    made = run_ahead(lambda name: _thumbnail(root, finder, name), names, len(names) + 1)
    return {name: uri for name, uri in zip(names, made, strict=True) if uri}


def _thumbnail(root: Path, finder: Finder, name: str) -> str:
    try:
        path, problem = finder.find(name)
        if problem:
            return ""
        picture = decode_picture(read_picture(root / path)).convert("RGB")
    except ValueError:  # a file that cannot be read, a picture that cannot be decoded, a name with a NUL
        return ""
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
