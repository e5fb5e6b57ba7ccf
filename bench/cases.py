"""Write the benchmark cases, three folders with a CSV and copied pictures, from one data set.

    memes    picture and text of every meme
    images   every picture, with an empty text
    texts    every text, with one tiny picture

Repeated pictures and texts and undecodable pictures are left out, so deduplication and error handling do not count.
"""

import csv
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cache import content_key
from embed.data.dataset import read_dataset
from embed.data.memes import Meme
from embed.pictures.decoding import UnreadableImage, decode_picture

_TABLE = "memes.csv"
_PICTURES = "images"
_TINY = (8, 8)


@dataclass(frozen=True)
class Row:
    """One meme of a case; picture: path of the file."""

    id: str
    picture: Path
    text: str


@dataclass(frozen=True)
class Case:
    """A folder of `count` memes; images, texts: whether these are encoded."""

    name: str
    folder: Path
    count: int
    images: bool
    texts: bool


def make_cases(data: Path, work: Path, most: int = 0) -> list[Case]:
    """Write the three folders under `work`, with at most `most` memes each (0: all), evenly spaced over the data set.

    Raises DatasetError, OSError.
    """
    root, memes = read_dataset(data)
    usable = [(root / meme.image, meme) for meme in memes if not meme.problem]
    keys = {path: _key(path) for path in dict.fromkeys(path for path, _ in usable)}
    usable = [(path, meme) for path, meme in usable if keys[path]]
    tiny = work / "tiny.png"
    work.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", _TINY, "white").save(tiny)
    pictures = list({keys[path]: path for path, _ in usable}.values())
    sides = {
        "memes": [(path, meme.text) for path, meme in _distinct(usable, keys)],
        "images": [(path, "") for path in pictures],
        "texts": [(tiny, text) for text in dict.fromkeys(meme.text for _, meme in usable)],
    }
    return [_write(work, name, _spread(rows, most)) for name, rows in sides.items()]


def read_rows(folder: Path) -> list[Row]:
    """The memes of a case's folder, in order."""
    with (folder / _TABLE).open(encoding="utf-8", newline="") as file:
        return [Row(row["id"], folder / _PICTURES / row["image"], row["text"]) for row in csv.DictReader(file)]


def _key(path: Path) -> str:
    """The picture's key, "" if it cannot be decoded."""
    try:
        data = path.read_bytes()
        decode_picture(data)
        return content_key(data)
    except (OSError, UnreadableImage):
        return ""


def _distinct(usable: Iterable[tuple[Path, Meme]], keys: dict[Path, str]) -> Iterable[tuple[Path, Meme]]:
    seen: set[str] = set()
    for path, meme in usable:
        both = {f"image {keys[path]}", f"text {meme.text}"}
        if not both & seen:
            yield path, meme
        seen |= both


def _spread(rows: list[tuple[Path, str]], most: int) -> list[tuple[Path, str]]:
    count = min(most, len(rows)) if most else len(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def _write(work: Path, name: str, rows: list[tuple[Path, str]]) -> Case:
    folder = work / name
    (folder / _PICTURES).mkdir(parents=True)
    with (folder / _TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "text", "label", "split"])
        for number, (path, text) in enumerate(rows):
            copied = f"{number:06d}{path.suffix}"
            shutil.copyfile(path, folder / _PICTURES / copied)
            writer.writerow([f"{number:06d}", copied, text, number % 2, "train"])
    return Case(name, folder, len(rows), images=name != "texts", texts=name != "images")
