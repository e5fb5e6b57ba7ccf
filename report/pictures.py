"""Small copies of the memes' pictures, to stand in the page itself. The names, the links and the files are hostile.

It opens a picture only through the embedding room's finder and thumbnails. `python -m report` uses it for the gallery.
"""

from collections.abc import Iterable
from pathlib import Path

from embed.base.threads import run_ahead
from embed.pictures.locate import Finder, open_pictures
from embed.pictures.thumbnails import thumbnail

# Of the longer side, in pixels: sharp at the gallery's width on a screen of common density.
_SIDE = 320


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
    except ValueError:  # a name with a NUL
        return ""
    return "" if problem else thumbnail(root / path, _SIDE)
