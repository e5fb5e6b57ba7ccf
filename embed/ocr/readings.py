"""What was read on pictures, and the empty texts of a data set filled with it.

    <artifacts>/readings/<engine>.jsonl    a line per picture: its key, and the words on it or why it cannot be read

A line is written as soon as its picture is read, so a kill loses the pictures in hand. Another engine, or another
setting of it, has a file of its own. It does not know how words are read. `python -m embed --ocr` uses it.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from cache import content_key, cores
from embed.base import json_lines as journal
from embed.base.threads import run_ahead
from embed.data.dataset import Meme
from embed.ocr.reader import OcrFailed, TextReader, engine_name
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture


@dataclass(frozen=True)
class Reading:
    """engine: see `embed.ocr.reader.engine_name`; empty, filled: memes without a text, and those that got one; pictures: of
    these memes, distinct; known, read, failed: of these, read by an earlier run, by this one, and not to be read;
    seconds: spent on reading."""

    engine: str
    empty: int
    filled: int
    pictures: int
    known: int
    read: int
    failed: int
    seconds: float


def fill_texts(
    root: Path, memes: Sequence[Meme], keys: Mapping[str, str], folder: Path, retry_failed: bool = False
) -> tuple[list[Meme], Reading]:
    """The memes, those with an empty text given what is read on their pictures; and what that came to.

    keys: {image: content key} of the pictures under `root` whose files can be read; folder: of the texts that were read
    before. A picture that cannot be decoded
    leaves its text empty. Raises OcrUnavailable, and OSError when the disk is full.
    """
    engine = engine_name()
    notes = _Notes(folder, engine)
    empty = [meme for meme in memes if not meme.text and not meme.problem and meme.image in keys]
    pictures = {keys[meme.image]: root / meme.image for meme in empty}
    todo = {key: path for key, path in pictures.items() if key not in notes.texts}
    if retry_failed:
        todo |= {key: path for key, path in pictures.items() if key in notes.problems}
    started = time.monotonic()
    if todo:
        _read(todo, notes)
    filled = [
        replace(meme, text=notes.texts.get(keys.get(meme.image, ""), ""))
        if not meme.text and not meme.problem
        else meme
        for meme in memes
    ]
    failed = pictures.keys() - (notes.texts.keys() - notes.problems)
    return filled, Reading(
        engine=engine,
        empty=len(empty),
        filled=sum(bool(meme.text) for meme in filled) - sum(bool(meme.text) for meme in memes),
        pictures=len(pictures),
        known=len(pictures.keys() - todo.keys() - failed),
        read=len(todo.keys() - failed),
        failed=len(failed),
        seconds=time.monotonic() - started,
    )


def _read(todo: Mapping[str, Path], notes: "_Notes") -> None:
    """Read the pictures, one in each core's thread, and note each at once."""
    reader = TextReader()

    def work(item: tuple[str, Path]) -> None:
        key, path = item
        try:
            data = read_picture(path)
            if content_key(data) == key:
                notes.add(key, reader.read(data))
        except (UnreadableImage, OcrFailed) as error:
            notes.add(key, problem=str(error))
        except UnusableFile:
            pass  # gone or changed since it was hashed: embedding says so, and another run may do better

    # never more than are in hand, so that a job that is stopped leaves nothing waiting
    with tqdm(total=len(todo), desc="reading words", unit=" pictures", smoothing=0.1) as bar:
        for _ in run_ahead(work, todo.items(), cores() + 1):
            bar.update()


class _Notes:
    """texts: {picture key: words, "" also where it cannot be read}; problems: the keys of those that cannot."""

    def __init__(self, folder: Path, engine: str) -> None:
        self._path = folder / (re.sub(r"[^a-z0-9.]+", "-", engine.lower()) + ".jsonl")
        self.texts: dict[str, str] = {}
        self.problems: set[str] = set()
        for noted in journal.entries(self._path):
            try:
                self._take(noted["picture"], noted["text"], noted.get("problem", ""))
            except (ValueError, TypeError, KeyError):
                continue  # not a line of ours

    def add(self, key: str, text: str = "", problem: str = "") -> None:
        """Note one picture; several threads and processes may."""
        journal.add(self._path, {"picture": key, "text": text} | ({"problem": problem} if problem else {}))
        self._take(key, text, problem)

    def _take(self, key: str, text: str, problem: str) -> None:
        self.texts[key] = text
        (self.problems.add if problem else self.problems.discard)(key)
