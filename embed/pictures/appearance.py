"""Turn a decoded picture into what a person sees: upright, in eight bits, on white.

A picture that needs none of this is returned as it is, in its own mode: the encoder's preprocessing then equals
open_clip's. Colour profiles are not applied.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

# The field `picture` of a feature spec: raise "rule" when equal pictures come out otherwise.
RULE: dict[str, Any] = {"rule": 1, "orientation": "exif", "background": "white", "bits": 8}

_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339
_SHORT = 3
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pixels converted at a time: with a whole picture of 64 megapixels each step would take 256 MB.
_STRIP = 1 << 20
# Modes that Pillow resizes and converts to RGB as they are.
_PLAIN = ("1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def as_seen(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture that a person sees, and what was done for it, such as ["transparent", "turned by EXIF"].

    picture: loaded, of any mode; it is not changed. The result has no transparent pixel, and is of a mode that
    converts to L and RGB. Raises what Pillow raises for a picture that it cannot convert.
    """
    done = []
    if picture.mode[0] in "IF":
        picture = _eight_bits(picture)
        done.append("16 bits or more")
    elif picture.mode == "LAB":
        picture = _from_lab(picture)
        done.append("LAB")
    elif _may_be_transparent(picture):
        picture, transparent = _on_white(picture)
        done += ["transparent"] * transparent
    if picture.mode not in _PLAIN:
        done.append(f"mode {picture.mode}")
        picture = picture.convert("RGB")
    if (turn := _turn(picture)) is not None:
        picture = picture.transpose(turn)
        done.append("turned by EXIF")
    return picture, done


def may_differ(picture: Image.Image) -> bool:
    """Whether `as_seen` could change this picture, by its header alone: it need not be loaded."""
    return picture.mode not in _PLAIN or _may_be_transparent(picture) or _turn(picture) is not None


def _turn(picture: Image.Image) -> Image.Transpose | None:
    # Pillow turns a TIFF itself when it loads it, as open_clip gets it
    return None if picture.format == "TIFF" else _TURNS.get(_orientation(picture.info.get("exif", b"")))


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data, 1 if there is none; read here, since Pillow parses every tag."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT else 1
    except struct.error:  # cut off
        pass
    return 1


def _may_be_transparent(picture: Image.Image) -> bool:
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        return True
    return picture.mode == "P" and picture.palette is not None and picture.palette.mode.endswith("A")


def _on_white(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture on white, and whether it has any transparent pixel; without one it stays as it is."""
    lowest, highest = 255, 0
    for _, strip in _strips(picture):
        alpha = np.asarray(strip.convert("RGBA"))[:, :, 3]
        lowest, highest = min(lowest, int(alpha.min())), max(highest, int(alpha.max()))
    if picture.format == "BMP" and highest == 0:
        return picture.convert("RGB"), True  # written by programs that leave the fourth byte unused
    if lowest == 255:
        if "transparency" in picture.info:
            picture = picture.copy()
            del picture.info["transparency"]  # Pillow warns of some in later conversions
        return picture, False
    page = Image.new("RGB", picture.size, "white")
    page.info |= {"exif": picture.info.get("exif", b"")}
    for box, strip in _strips(picture):
        layer = strip.convert("RGBA")
        page.paste(layer, box, layer)
    return page, True


def _strips(picture: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    width, height = picture.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        yield box, picture.crop(box)


def _from_lab(picture: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(picture)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of more than eight bits, or of floats, as L.

    Sixteen bits lose their lower byte, and other numbers are scaled by `_range`; NaN is black.
    """
    low, high = _range(picture)
    page = Image.new("L", picture.size)
    page.info |= {"exif": picture.info.get("exif", b"")}
    for box, strip in _strips(picture):
        values = _values(picture, strip)
        scaled = np.nan_to_num((values - low) * (256 / (high - low)), nan=0.0, posinf=255.0, neginf=0.0)
        grey = scaled.clip(0, 255).astype(np.uint8)
        if picture.mode.startswith("I;16") and "transparency" in picture.info:
            grey[values == picture.info["transparency"]] = 255
        if _tags(picture).get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow minds in eight bits only
            grey = 255 - grey
        page.paste(Image.fromarray(grey), box)
    return page


def _range(picture: Image.Image) -> tuple[float, float]:
    """The values that become black, and just above white.

    All values of the mode for sixteen bits and less; for the others the first of 0..1 (floats only), 0..255 and
    0..65535 that holds every finite value, else from the lowest to the highest.
    """
    if picture.mode.startswith("I;16"):
        return 0.0, float(2 ** _first(_tags(picture).get(_BITS), 16))
    lows, highs = [], []
    for _, strip in _strips(picture):
        values = _values(picture, strip)
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    for most, above in ((1.0, 256 / 255), (255.0, 256.0), (65535.0, 65536.0)):
        if low >= 0 and high <= most and (most > 1 or picture.mode == "F"):
            return 0.0, above
    return low, low + (high - low) * (256 / 255) if high > low else low + 1


def _values(picture: Image.Image, strip: Image.Image) -> np.ndarray:
    """(H, W) float64; Pillow has unsigned 32-bit integers of a TIFF as signed ones."""
    values = np.asarray(strip)
    if picture.mode == "I" and _first(_tags(picture).get(_BITS), 0) == 32 and _is_unsigned(picture):
        values = values.view(np.uint32)
    return values.astype(np.float64)


def _is_unsigned(picture: Image.Image) -> bool:
    return _first(_tags(picture).get(_SAMPLE_FORMAT), 1) == 1


def _tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", {})


def _first(value: Any, otherwise: int) -> int:
    """The first number of a TIFF tag, which is a number or a tuple."""
    found = value[0] if isinstance(value, tuple) and value else value
    return found if isinstance(found, int) else otherwise
