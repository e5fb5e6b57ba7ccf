"""Image bytes to a decoded picture: the one way in for the batch job and for the server. The bytes are hostile.

It knows nothing of files, CLIP or HTTP. Pixels are as open_clip would see them: Pillow, the first frame, no EXIF
rotation, no mode conversion (open_clip resizes first and converts to RGB after, which differs for palettes).
"""

import io
import re
import warnings

from PIL import Image, ImageFile

# Formats memes come in, none of which starts another program (EPS does) or reads other files.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Real memes reach 24 megapixels; 64 of them decode in under 300 MB.
MAX_PIXELS = 64_000_000
# Between 89 and 178 megapixels Pillow would only warn, on stderr; beyond, its own check comes before `_check_size`.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# CLIP scales the short side up to its input, so a 1 x 60,000 picture would grow to gigabytes.
MAX_ASPECT = 100
# Encoders write about ten scans. Each of a progressive JPEG goes over the whole picture again, and a megabyte holds
# thousands: minutes of work. libtiff stops at a hundred as well.
_MAX_SCANS = 100
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]")
# A file of 100 MB made of two-byte blocks has Pillow collect gigabytes of them; real pictures take some thousand.
_MAX_READS = 1_000_000
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


class UnreadableImage(ValueError):
    """Bytes that are not a picture we can use; the message says why."""


class NotAnImage(UnreadableImage):
    """The bytes are in no image format that we read."""


class TooManyPixels(UnreadableImage):
    """The picture would decode, or be scaled, to more pixels than we hold."""


def decode_picture(data: bytes) -> Image.Image:
    """Decode the first frame fully. Raises UnreadableImage: empty, not an image, cut off, too many pixels."""
    if not data:
        raise UnreadableImage("the file is empty")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: half a picture would be embedded silently")
    picture = _open(data)
    _check_size(*picture.size)
    _check_tiles(picture)
    try:
        picture.load()
    # Pillow's decoders raise whatever a broken file leads them into, from SyntaxError to struct.error.
    except Exception as error:
        raise UnreadableImage(f"the picture is cut off or damaged ({error})") from error
    return picture


class _Source(io.BytesIO):
    """Bytes that can be read from so many times and no more."""

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
    """A TIFF may be stored in tiles, and a whole one is decoded, however small the picture that is cut out of it."""
    tags = getattr(picture, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)
    if not isinstance(width, int) or not isinstance(height, int):
        raise UnreadableImage("its header gives no number for the size of its tiles")
    if width * height > MAX_PIXELS:
        raise TooManyPixels(f"stored in tiles of {width} x {height}, more than {MAX_PIXELS:,} pixels")


def on_white(picture: Image.Image) -> Image.Image:
    """In RGB, what is transparent filled white, as a page shows it. Raises UnreadableImage for an odd mode."""
    wanted = "RGBA" if picture.has_transparency_data else "RGB"
    try:
        # of 64 megapixels, a copy that is not needed takes 256 MB
        layer = picture if picture.mode == wanted else picture.convert(wanted)
    except (ValueError, OSError) as error:
        raise UnreadableImage(f"a picture of mode {picture.mode} that cannot be converted ({error})") from error
    if wanted == "RGB":
        return layer
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer)
    return page
