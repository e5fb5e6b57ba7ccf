"""Decoding: what is a picture, what is not, and what must not be let in."""

import io
import struct
import zlib

import pytest
from fakes import picture
from PIL import Image

from embed.pictures.decoding import NotAnImage, TooManyPixels, UnreadableImage, decode_picture


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *(("RGB", f) for f in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")),
        *((m, "PNG") for m in ("RGBA", "P", "L", "LA", "1", "I;16")),
        ("CMYK", "JPEG"),
    ],
)
def test_formats(mode: str, format: str) -> None:
    assert decode_picture(picture(mode=mode, format=format)).size == (24, 16)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(buffer.getvalue()).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def lying(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "row_error"),
    [
        (b"", UnreadableImage, "empty"),
        (b"hello", NotAnImage, "known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NotAnImage, "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NotAnImage, "known format"),
        (picture(size=(64, 64))[:-2000], UnreadableImage, "cut off or damaged"),
        (picture(size=(64, 64), format="JPEG")[:700], UnreadableImage, "cut off or damaged"),
        (picture()[:20], UnreadableImage, "header|damaged|known format"),
        (bomb(), TooManyPixels, "9000 x 9000"),
        (lying(10_000, 10_000), TooManyPixels, "more than 64,000,000 pixels"),
        (lying(60_000, 60_000), TooManyPixels, "more than 64,000,000 pixels"),
        (lying(60_000, 10), TooManyPixels, "one side"),
        (lying(600, 600), UnreadableImage, "cut off or damaged"),
        (picture(size=(1, 400)), TooManyPixels, "one side"),
    ],
)
def test_what_is_refused(data: bytes, error: type[Exception], row_error: str) -> None:
    with pytest.raises(error, match=row_error):
        decode_picture(data)


@pytest.mark.parametrize("step", ["PIL.Image.open", "PIL.ImageFile.ImageFile.load", "embed.pictures.decoding.as_seen"])
def test_too_little_memory_is_no_bad_picture(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    data = picture()
    monkeypatch.setattr(step, lack)
    with pytest.raises(MemoryError):
        decode_picture(data)
