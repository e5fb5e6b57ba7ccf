"""Make any number of distinct memes from a few, with other bytes and texts but the same pixels."""

import csv
import itertools
import zlib
from pathlib import Path

from embed.data.dataset import read_dataset

# Offsets of the comment: after a PNG's signature and IHDR chunk; after a JPEG's start-of-image marker.
_PNG_HEAD, _JPEG_HEAD = 33, 2


def write_copies(data: Path, folder: Path, count: int) -> None:
    """Write `count` memes with distinct bytes and texts to `folder`. Raises DatasetError, OSError."""
    root, memes = read_dataset(data)
    (folder / "images").mkdir(parents=True)
    with (folder / "memes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "split"])
        usable = itertools.cycle([meme for meme in memes if not meme.problem])
        for number, meme in enumerate(itertools.islice(usable, count)):
            name = f"{number:06d}{Path(meme.image).suffix}"
            copy = with_comment((root / meme.image).read_bytes(), f"copy {number}".encode())
            (folder / "images" / name).write_bytes(copy)
            writer.writerow([name, f"{meme.text} {number}", number % 2, "train"])


def with_comment(picture: bytes, comment: bytes) -> bytes:
    """The picture with a comment, in its PNG or JPEG field, else after the end of the image data."""
    if picture.startswith(b"\x89PNG"):
        body = b"Comment\0" + comment
        chunk = len(body).to_bytes(4) + b"tEXt" + body + zlib.crc32(b"tEXt" + body).to_bytes(4)
        return picture[:_PNG_HEAD] + chunk + picture[_PNG_HEAD:]
    if picture.startswith(b"\xff\xd8"):
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment
        return picture[:_JPEG_HEAD] + segment + picture[_JPEG_HEAD:]
    return picture + comment
