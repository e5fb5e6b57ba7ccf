"""Thumbnails of pictures as data URIs, for the gallery.

Names, links and files are not trusted: pictures are opened only by `embed`'s finder and decoder.
"""

from collections.abc import Iterable
from pathlib import Path

from embed.base.threads import run_ahead
from embed.pictures.locate import Finder, open_pictures
from embed.pictures.thumbnails import thumbnail

# Pixels of the longer side.
_SIDE = 320


def thumbnails(data: str, images: Iterable[str], place: str = "", links: str = "") -> dict[str, str]:
    """{image: data URI of a WebP}; pictures that are missing, outside of the folder or not readable are left out.

    data: data folder or table of the embedding job; place, links: its IMAGES and LINKS; images: paths inside either.
    """
    if not data or not (place or Path(data).exists()):
        return {}
    try:
        root, finder = open_pictures({"data": data, "images": place, "links": links})
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
