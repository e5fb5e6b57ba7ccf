"""Decode untrusted image bytes, with limits, to the picture that a person sees.

Pillow, the first frame, then `embed.pictures.appearance`: upright, in eight bits, on white. A picture that needs none
of this keeps its mode, as in open_clip, which resizes first and converts to RGB after, which differs for palettes.
"""

import io
import re
import warnings
from typing import Any

from PIL import Image, ImageFile

from embed.pictures.appearance import as_seen, may_differ
from embed.pictures.chunks import TooManyChunks, essential_chunks

# Formats of memes; none starts another program (as EPS does) or reads other files.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Real memes reach 24 megapixels; 64 of them decode in under 300 MB, and in under 600 MB where there is something to
# turn or to flatten: less than the encoder's resizing takes after it.
MAX_PIXELS = 64_000_000
# Between 89 and 178 megapixels Pillow only warns; above, its own check comes before `_check_size`.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Pillow warns once for each odd tag of a damaged file, up to 65,535 times.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# CLIP scales the short side to its input size, so a 1 x 60,000 picture would grow to gigabytes.
MAX_ASPECT = 100
# Encoders write about ten scans. Decoding a progressive JPEG passes over the whole picture for each scan, and a
# megabyte may hold thousands: minutes of work. libtiff also stops at a hundred.
_MAX_SCANS = 100
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]")
# For 100 MB of two-byte blocks Pillow collects gigabytes of objects; real pictures need some thousand reads.
_MAX_READS = 1_000_000
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
# Place of the bit depth in a PNG, whose first chunk is IHDR.
_PNG_BITS = 24


class UnreadableImage(ValueError):
    """The bytes are not a usable picture; the message says why."""


class NotAnImage(UnreadableImage):
    """The bytes are in none of FORMATS."""


class TooManyPixels(UnreadableImage):
    """The picture would decode, or be scaled, to too many pixels."""


def decode_picture(data: bytes) -> Image.Image:
    """The first frame as a person sees it; converts to L and RGB, has no transparent pixel. Raises UnreadableImage."""
    return see(decode_stored(data))[0]


def decode_stored(data: bytes) -> Image.Image:
    """The first frame as it is stored. Raises UnreadableImage: empty, not an image, damaged, too large; MemoryError.

    Encoders with a spec from before `embed.pictures.appearance` get this.
    """
    picture = _open(data)
    try:
        picture.load()
    except MemoryError:  # not the picture's fault: it may fit beside less work
        raise
    # Pillow's decoders raise all kinds of exceptions, from SyntaxError to struct.error.
    except Exception as error:
        raise UnreadableImage(f"the picture is cut off or damaged ({error})") from error
    return picture


def see(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """A loaded picture as a person sees it, and what was done for it. Raises UnreadableImage if it cannot be converted."""
    try:
        return as_seen(picture)
    except MemoryError:
        raise
    # as of Pillow's decoders
    except Exception as error:
        raise UnreadableImage(f"a picture of mode {picture.mode} that cannot be converted ({error})") from error


def appearance_changes(data: bytes) -> list[str]:
    """What is done for a picture that a person sees otherwise than stored; decodes only if the header allows for it.

    Raises UnreadableImage.
    """
    return see(decode_stored(data))[1] if may_differ(_open(data)) else []


class _Source(io.BytesIO):
    """Bytes with a limit on the number of reads. Raises UnreadableImage beyond it."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise UnreadableImage("it is cut into a million tiny blocks")
        return super().read(size)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("the file is empty")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: half a picture would be embedded silently")
    if data.startswith(b"\xff\xd8") and sum(1 for _ in _SCAN.finditer(data)) > _MAX_SCANS:
        raise UnreadableImage(f"a JPEG of more than {_MAX_SCANS} scans; save it again as a plain one")
    picture = _identified(data)
    _check_size(*picture.size)
    _check_tiles(picture)
    return picture


def _identified(data: bytes) -> Image.Image:
    try:
        pixels, exif = essential_chunks(data)
        picture = Image.open(_Source(pixels), formats=FORMATS)
    except TooManyChunks as error:
        raise UnreadableImage(str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise NotAnImage(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"more than {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(f"its header cannot be read ({error})") from error
    if picture.format == "PNG":
        picture.info.update(_transparent_colour(picture, bits=pixels[_PNG_BITS]))
        if exif:
            picture.info["exif"] = exif
    return picture


def _transparent_colour(picture: Image.Image, bits: int) -> dict[str, Any]:
    """The colour that a PNG's `tRNS` chunk makes transparent, in eight bits: Pillow scales the pixels alone."""
    colour = picture.info.get("transparency")
    if picture.mode == "L" and isinstance(colour, int) and bits in (2, 4, 8):
        most = 2**bits - 1
        return {"transparency": (colour & most) * 255 // most}
    if picture.mode == "RGB" and isinstance(colour, tuple) and bits == 16:
        return {"transparency": tuple(part >> 8 for part in colour)}
    return {}


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise TooManyPixels(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise TooManyPixels(f"{width} x {height}: one side is more than {MAX_ASPECT} times the other")


def _check_tiles(picture: Image.Image) -> None:
    """A tiled TIFF decodes whole tiles, however small the picture. Raises UnreadableImage."""
    tags = getattr(picture, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)
    if not isinstance(width, int) or not isinstance(height, int):
        raise UnreadableImage("its header gives no number for the size of its tiles")
    if width * height > MAX_PIXELS:
        raise TooManyPixels(f"stored in tiles of {width} x {height}, more than {MAX_PIXELS:,} pixels")


def in_rgb(picture: Image.Image) -> Image.Image:
    """A result of `decode_picture` in RGB; no copy if it is already, since one of 64 megapixels takes 256 MB."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")
