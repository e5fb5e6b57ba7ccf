"""Decode untrusted image bytes with limits; used by the batch job and the server.

Pixels are as in open_clip: Pillow, the first frame, no EXIF rotation, no mode conversion (open_clip resizes first and
converts to RGB after, which differs for palettes).
"""

import io
import re
import warnings

from PIL import Image, ImageFile

# Formats of memes; none starts another program (as EPS does) or reads other files.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Real memes reach 24 megapixels; 64 of them decode in under 300 MB.
MAX_PIXELS = 64_000_000
# Between 89 and 178 megapixels Pillow only warns; above, its own check comes before `_check_size`.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# CLIP scales the short side to its input size, so a 1 x 60,000 picture would grow to gigabytes.
MAX_ASPECT = 100
# Encoders write about ten scans. Decoding a progressive JPEG passes over the whole picture for each scan, and a
# megabyte may hold thousands: minutes of work. libtiff also stops at a hundred.
_MAX_SCANS = 100
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]")
# For 100 MB of two-byte blocks Pillow collects gigabytes of objects; real pictures need some thousand reads.
_MAX_READS = 1_000_000
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


class UnreadableImage(ValueError):
    """The bytes are not a usable picture; the message says why."""


class NotAnImage(UnreadableImage):
    """The bytes are in none of FORMATS."""


class TooManyPixels(UnreadableImage):
    """The picture would decode, or be scaled, to too many pixels."""


def decode_picture(data: bytes) -> Image.Image:
    """Decode the first frame, in its own mode. Raises UnreadableImage: empty, not an image, damaged, too large."""
    if not data:
        raise UnreadableImage("the file is empty")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: half a picture would be embedded silently")
    picture = _open(data)
    _check_size(*picture.size)
    _check_tiles(picture)
    try:
        picture.load()
    # Pillow's decoders raise all kinds of exceptions, from SyntaxError to struct.error.
    except Exception as error:
        raise UnreadableImage(f"the picture is cut off or damaged ({error})") from error
    return picture


class _Source(io.BytesIO):
    """Bytes with a limit on the number of reads. Raises UnreadableImage beyond it."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise UnreadableImage("it is cut into a million tiny blocks")
        return super().read(size)


def _open(data: bytes) -> Image.Image:
    if data.startswith(b"\xff\xd8") and sum(1 for _ in _SCAN.finditer(data)) > _MAX_SCANS:
        raise UnreadableImage(f"a JPEG of more than {_MAX_SCANS} scans; save it again as a plain one")
    try:
        return Image.open(_Source(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise NotAnImage(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise UnreadableImage(f"its header cannot be read ({error})") from error


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


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, on a white background. Raises UnreadableImage for a mode that cannot be converted."""
    wanted = "RGBA" if picture.has_transparency_data else "RGB"
    try:
        # an unnecessary copy of 64 megapixels takes 256 MB
        layer = picture if picture.mode == wanted else picture.convert(wanted)
    except (ValueError, OSError) as error:
        raise UnreadableImage(f"a picture of mode {picture.mode} that cannot be converted ({error})") from error
    if wanted == "RGB":
        return layer
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer)
    return page
