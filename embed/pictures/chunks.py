"""Reduce a PNG file to the chunks that decide its pixels, so that broken or large metadata does not matter.

Pillow refuses a whole PNG for a wrong checksum or a long text in a chunk that viewers skip.
"""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Length, name and checksum of a chunk.
_AROUND = 12
# A chunk of the smallest size costs a third of a microsecond here, and Pillow's limit on reads comes later.
_MOST_CHUNKS = 1_000_000


class TooManyChunks(ValueError):
    """A PNG of a million chunks."""


def essential_chunks(data: bytes) -> tuple[bytes, bytes]:
    """A PNG without its ancillary chunks but for transparency, and the EXIF data of its `eXIf` chunk; b"" if none.

    An ancillary chunk with a wrong checksum counts as absent, as in libpng; the critical ones are left to Pillow. Other
    data are returned unchanged. Raises TooManyChunks.
    """
    if not data.startswith(_SIGNATURE):
        return data, b""
    kept, exif = bytearray(_SIGNATURE), b""
    view, at, palette_open = memoryview(data), len(_SIGNATURE), True
    for _ in range(_MOST_CHUNKS):
        length, name = _header(data, at)
        chunk = view[at : at + length + _AROUND]
        # an upper-case first letter means critical
        if not name or name[:1].isupper():
            kept += chunk
            palette_open = palette_open and name != b"IDAT"
        elif name == b"tRNS" and palette_open and _is_intact(chunk):
            kept += chunk
        elif name == b"eXIf" and _is_intact(chunk):
            exif = exif or bytes(chunk[8:-4])
        at += length + _AROUND
        if name in (b"IEND", b""):
            return bytes(kept), exif
    raise TooManyChunks("it is cut into a million tiny blocks")


def _header(data: bytes, at: int) -> tuple[int, bytes]:
    """Length and name of the chunk at `at`; (the rest, b"") where none begins."""
    if at + 8 > len(data):
        return len(data), b""
    return struct.unpack_from(">I4s", data, at)


def _is_intact(chunk: memoryview) -> bool:
    length, checksum = int.from_bytes(chunk[:4]), int.from_bytes(chunk[-4:])
    return len(chunk) == length + _AROUND and zlib.crc32(chunk[4:-4]) == checksum
