"""The picture that a person sees: upright, in eight bits, on white; and untouched where it is that already."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import picture
from PIL import Image, ImageDraw, ImageOps

from embed.data.near_duplicates import picture_hash
from embed.pictures.decoding import UnreadableImage, appearance_changes, decode_picture, decode_stored

RNG = np.random.default_rng(5)
RGB = np.asarray(Image.open(io.BytesIO(picture(3, size=(24, 16)))))  # (16, 24, 3) uint8


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def seen(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8"""
    return np.asarray(decode_picture(data).convert("RGB"))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of (H, W) or (H, W, C) samples, with `chunks` before the pixels; an independent writer."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    if depth < 8:
        bits = np.unpackbits(rows.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - depth :]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    else:
        packed = rows.astype(">u2" if depth == 16 else np.uint8)
    pixels = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", zlib.compress(pixels)),
            chunk(b"IEND", b""),
        ]
    )


def with_orientation(value: int, order: str = "<", kind: int = 3) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, kind, 1, value, 0, 0)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_its_exif_says(format: str, value: int, order: str) -> None:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + with_orientation(value, order))
    data = saved(Image.fromarray(RGB), format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(seen(data), np.asarray(expected))
    # Pillow turns a TIFF itself, so that an encoder got it upright at all times
    turned = value > 1 and format != "TIFF"
    assert appearance_changes(data) == (["turned by EXIF"] if turned else [])


def test_a_png_is_turned_by_a_chunk_after_its_pixels_too() -> None:
    data = png(RGB, 8, 2)
    late = data.replace(chunk(b"IEND", b""), chunk(b"eXIf", with_orientation(6)) + chunk(b"IEND", b""))
    assert np.array_equal(seen(late), np.rot90(RGB, -1)) and appearance_changes(late) == ["turned by EXIF"]


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"no EXIF",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        with_orientation(0),
        with_orientation(9),
        with_orientation(6)[:-9],
        with_orientation(6, kind=4),
        b"II*\0" + struct.pack("<IH", 8, 65535),
    ],
)
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    data = png(RGB, 8, 2, chunk(b"eXIf", exif))
    assert np.array_equal(seen(data), RGB) and appearance_changes(data) == []


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_that_a_png_makes_transparent_is_white(depth: int) -> None:
    values = RNG.integers(0, 2**depth, (8, 16))
    values[0, :8] = key = 2**depth // 2
    data = png(values, depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
    grey = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
    assert np.array_equal(seen(data)[:, :, 0], np.where(values == key, 255, grey))
    assert appearance_changes(data) == (["16 bits or more"] if depth == 16 else ["transparent"])


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_that_a_png_makes_transparent_is_white(depth: int) -> None:
    values = RNG.integers(0, 2**depth, (8, 16, 3))
    values[:2] = key = values[5, 5].copy()
    data = png(values, depth, 2, chunk(b"tRNS", struct.pack(">3H", *key)))
    pixels = values >> (depth - 8)
    assert np.array_equal(seen(data), np.where((values == key).all(axis=2, keepdims=True), 255, pixels))


@pytest.mark.parametrize("alphas", [[0], [0, 255, 0], [10, 128, 200], [255, 255]], ids=str)
@pytest.mark.parametrize("depth", [2, 4, 8])
def test_a_palette_with_transparent_colours(depth: int, alphas: list[int]) -> None:
    values = RNG.integers(0, 2**depth, (8, 16))
    values[0, : len(alphas)] = range(len(alphas))
    palette = RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    data = png(values, depth, 3, chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", bytes(alphas)))
    opacity = (np.array(alphas + [255] * (2**depth - len(alphas))) / 255)[values][:, :, None]
    assert np.abs(seen(data) - (palette[values] * opacity + 255 * (1 - opacity))).max() <= 0.5
    assert appearance_changes(data) == (["transparent"] if min(alphas) < 255 else [])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_laid_on_white(mode: str, format: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (16, 24, 4)).astype(np.uint8), "RGBA").convert(mode)
    data = saved(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    colour, opacity = np.asarray(image.convert("RGBA"))[:, :, :3], np.asarray(image.getchannel("A"))[:, :, None] / 255
    assert np.abs(seen(data) - (colour * opacity + 255 * (1 - opacity))).max() <= 1
    assert appearance_changes(data) == ["transparent"]


def sticker(colour: str, background: str | tuple[int, ...], mode: str) -> Image.Image:
    image = Image.new(mode, (160, 60), background)
    ImageDraw.Draw(image).text((8, 8), "SOME WORDS", colour, font_size=22)
    return image


def test_black_words_on_nothing_are_seen_as_black_words_on_white() -> None:
    """As `sticker_black.png`: the transparent pixels are black, so that all was black."""
    clear = sticker("black", (0, 0, 0, 0), "RGBA")
    white = sticker("black", "white", "RGB")
    assert np.abs(seen(saved(clear)).astype(int) - seen(saved(white))).max() <= 1
    assert seen(saved(clear)).min() == 0


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_a_transparent_animation(format: str) -> None:
    frames = [Image.new("RGBA", (24, 16), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (4 + number, 4, 12 + number, 12))
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], disposal=2, **options)
    expected = np.full((16, 24, 3), 255)
    expected[4:12, 4:12] = (255, 0, 0)
    assert np.abs(seen(data) - expected).max() <= 2
    assert appearance_changes(data) == ["transparent"]


GREYS = RNG.integers(0, 65536, (16, 24))
SIGNED = np.concatenate([GREYS - 40_000, [[-(2**31)] * 24, [2**31 - 1] * 24]])


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) * 255


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(GREYS, 16, 0), GREYS >> 8),
        (saved(Image.fromarray(GREYS.astype(np.uint16)), "TIFF"), GREYS >> 8),
        (saved(Image.fromarray(GREYS.astype(">u2")), "TIFF"), GREYS >> 8),
        (saved(Image.fromarray(GREYS.astype(np.int32)), "TIFF"), GREYS >> 8),
        (saved(Image.fromarray((GREYS >> 8).astype(np.int32)), "TIFF"), GREYS >> 8),
        (saved(Image.fromarray(SIGNED.astype(np.int32)), "TIFF"), stretched(SIGNED.astype(float))),
        (saved(Image.fromarray((GREYS / 65535).astype(np.float32)), "TIFF"), GREYS / 257),
        (saved(Image.fromarray((GREYS / 257).astype(np.float32)), "TIFF"), GREYS / 257),
        (saved(Image.fromarray(GREYS.astype(np.float32)), "TIFF"), GREYS >> 8),
        (saved(Image.fromarray((GREYS - 300.0).astype(np.float32)), "TIFF"), stretched(GREYS - 300.0)),
        (saved(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), np.full((4, 4), 127)),
        (saved(Image.fromarray(np.full((4, 4), -7, np.float32)), "TIFF"), np.zeros((4, 4))),
    ],
)  # fmt: skip
def test_greys_of_more_than_eight_bits_are_scaled(data: bytes, expected: np.ndarray) -> None:
    assert decode_picture(data).mode == "L" and appearance_changes(data) == ["16 bits or more"]
    assert np.abs(np.asarray(decode_picture(data)) - expected).max() <= 1


def test_numbers_that_are_none_are_black_or_clipped_and_do_not_decide_the_range() -> None:
    values = (GREYS / 65535).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = np.asarray(decode_picture(saved(Image.fromarray(values), "TIFF")))
    assert found[0, :3].tolist() == [0, 255, 0] and np.abs(found[1:] - GREYS[1:] / 257).max() <= 1
    nothing = np.full((4, 4), np.nan, np.float32)
    assert not np.asarray(decode_picture(saved(Image.fromarray(nothing), "TIFF"))).any()


def tiff(values: np.ndarray, photometric: int) -> bytes:
    """A TIFF of (H, W) unsigned integers as no writer of Pillow's makes it."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 122, 277: 1, 278: height}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {279: values.nbytes}).items())
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + bytes(4) + values.tobytes()


def test_tiffs_of_unsigned_integers_and_with_white_as_zero() -> None:
    wide = RNG.integers(0, 2**32, (8, 9), dtype=np.uint32)
    wide[0, :2] = 0, 2**32 - 1
    assert np.abs(seen(tiff(wide, 1))[:, :, 0] - stretched(wide.astype(float))).max() <= 1
    short = RNG.integers(0, 2**16, (8, 9)).astype(np.uint16)
    assert np.array_equal(seen(tiff(short, 1))[:, :, 0], short >> 8)
    assert np.array_equal(seen(tiff(short, 0))[:, :, 0], 255 - (short >> 8))


def test_lab_has_the_colours_it_stands_for() -> None:
    """Rounded L, a and b of sRGB's red, green, blue and grey in D50."""
    lab = np.array([[(54, 81, 70), (88, -79, 81), (30, 68, -112), (54, 0, 0)]], float)
    stored = np.stack([lab[:, :, 0] * 2.55, *(lab[:, :, band] + 128 for band in (1, 2))], axis=2)
    image = Image.merge("LAB", [Image.fromarray(stored[:, :, band].round().astype(np.uint8)) for band in range(3)])
    found = seen(saved(image, "TIFF"))[0].astype(int)
    assert np.abs(found - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (129, 129, 129)]).max() <= 30
    assert appearance_changes(saved(image, "TIFF")) == ["LAB"]


def without_adobe(data: bytes) -> bytes:
    place = data.index(b"\xff\xee")
    return data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4]) :]


def test_inks_are_seen_as_colours() -> None:
    red = Image.new("CMYK", (24, 16), (0, 255, 255, 0))
    jpeg = saved(red, "JPEG")
    assert b"Adobe" in jpeg and b"Adobe" not in without_adobe(jpeg)
    for data in (jpeg, without_adobe(jpeg), saved(red, "TIFF")):
        assert np.abs(seen(data) - (254, 0, 0)).max() <= 2 and appearance_changes(data) == []


UNTOUCHED = {
    **{mode: picture(mode=mode) for mode in ("RGB", "P", "L", "1", "RGBA", "LA")},
    **{f: picture(format=f) for f in ("JPEG", "GIF", "WEBP", "BMP", "TIFF")},
    "CMYK": picture(mode="CMYK", format="JPEG"),
    "YCbCr": saved(Image.open(io.BytesIO(picture())).convert("YCbCr"), "TIFF"),
    "interlaced": saved(Image.fromarray(RGB), interlace=1),
    "unused transparent colour": png(np.zeros((4, 4)), 8, 0, chunk(b"tRNS", b"\0\7")),
}


@pytest.mark.parametrize("data", UNTOUCHED.values(), ids=UNTOUCHED)
def test_other_pictures_are_what_pillow_makes_of_them(data: bytes) -> None:
    plain = Image.open(io.BytesIO(data))
    found = decode_picture(data)
    assert (found.mode, found.size) == (plain.mode, plain.size) and found.tobytes() == plain.tobytes()
    assert appearance_changes(data) == []


def bmp_with_unused_alpha() -> bytes:
    """A BMP of 2 x 2 whose header has a mask of alpha, and whose pixels have none."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 138, 0, 0, 122) + header + bytes([200, 100, 50, 0]) * 4


def test_a_bmp_whose_fourth_byte_is_unused_is_not_blank() -> None:
    assert decode_stored(bmp_with_unused_alpha()).mode == "RGBA"
    assert (seen(bmp_with_unused_alpha()) == (50, 100, 200)).all()


def broken(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


LONG = b"Comment\0\0" + zlib.compress(bytes(3_000_000))
ANCILLARY = {
    "wrong checksum": broken(chunk(b"pHYs", struct.pack(">IIB", 1, 1, 1))),
    "short": chunk(b"pHYs", b"\1"),
    "long text": chunk(b"zTXt", LONG),
    "much text": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "broken text": chunk(b"zTXt", b"Comment\0\0not deflated"),
    "long profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3_000_000))),
    "broken profile": broken(chunk(b"iCCP", b"name\0\0nothing")),
    "broken transparency": broken(chunk(b"tRNS", struct.pack(">3H", *RGB[0, 0]))),
    "broken eXIf": broken(chunk(b"eXIf", with_orientation(6))),
    "broken animation": chunk(b"acTL", struct.pack(">II", 2**31, 0)),
    "nobody's": chunk(b"abCd", b"?"),
}


@pytest.mark.parametrize("ancillary", ANCILLARY.values(), ids=ANCILLARY)
def test_a_png_is_judged_by_its_pixels_whatever_else_it_holds(ancillary: bytes) -> None:
    for data in (
        png(RGB, 8, 2, ancillary),
        png(RGB, 8, 2).replace(chunk(b"IEND", b""), ancillary + chunk(b"IEND", b"")),
    ):
        assert np.array_equal(seen(data), RGB) and appearance_changes(data) == []


@pytest.mark.parametrize(
    "data",
    [
        png(RGB, 8, 2)[:-40],
        png(RGB, 8, 2, ANCILLARY["much text"])[:-40],
        png(RGB, 8, 2, ANCILLARY["wrong checksum"])[:200],
        b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
        b"\x89PNG\r\n\x1a\n" + chunk(b"abCd", b"") * 20,
        broken(chunk(b"IHDR", bytes(13))),
    ],
)
def test_a_png_with_broken_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        decode_picture(data)


@pytest.mark.parametrize("seed", range(150))
def test_damaged_files_are_seen_or_refused_and_nothing_else(seed: int) -> None:
    """Bytes of good files of every kind changed at random."""
    rng = np.random.default_rng(seed)
    makers: list[Callable[[], bytes]] = [*((lambda data=data: data) for data in UNTOUCHED.values())]
    makers += [
        bmp_with_unused_alpha,
        lambda: tiff(GREYS.astype(np.uint16), 1),
        lambda: png(RGB, 8, 2, ANCILLARY["long text"]),
    ]
    data = bytearray(makers[seed % len(makers)]())
    for place in rng.integers(0, min(len(data), 300), 4):
        data[place] = rng.integers(256)
    try:
        found = decode_picture(bytes(data))
    except UnreadableImage:
        return
    assert found.convert("RGB").mode == "RGB"
    picture_hash(found)
