"""Fill empty texts of a data set by OCR, and cache the results.

    <artifacts>/readings/<engine>.jsonl    one line per picture: its key, and its text or why it cannot be read

A line is written as soon as its picture is read, so a kill loses only the pictures in progress. Each engine, and each
language and setting of it, has its own file. `python -m embed --ocr` writes it; the server and `predict-folder` look a
picture up before they read it.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache import KeyColumn, content_key, cores
from embed.base import json_lines
from embed.base.threads import run_ahead
from embed.data.memes import Memes
from embed.ocr.reader import OcrFailed, TextReader, engine_name
from embed.ocr.recognisers import Recogniser
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture


@dataclass(frozen=True)
class Reading:
    """Counts of an OCR run.

    engine: see `embed.ocr.reader.engine_name`; empty, filled: memes without a text, and those that got one; pictures:
    distinct pictures of the empty ones, of which known were read by an earlier run, read by this one, failed could
    not be read, and unread are new to a run that reads none; seconds: of OCR.
    """

    engine: str
    empty: int
    filled: int
    pictures: int
    known: int
    read: int
    failed: int
    seconds: float
    unread: int = 0


def fill_texts(
    root: Path, memes: Memes, keys: KeyColumn, results: "Readings", retry_failed: bool = False
) -> tuple[Memes, Reading]:
    """The memes with empty texts filled by OCR, and counts.

    keys: (N,) content keys of the pictures under `root`, "" of unreadable ones; results: earlier ones, and where new ones
    go; retry_failed: retry pictures that could not be read. Their texts stay empty, and those of new pictures where
    `results` only keeps earlier ones. Raises OcrUnavailable, and OSError when the disk is full.
    """
    empty = np.flatnonzero((memes.texts.lengths == 0) & keys.present)
    rows = dict(zip(empty.tolist(), keys.take(empty)))
    pictures = {key: root / image for key, image in zip(rows.values(), memes.images.take(empty))}
    new = pictures.keys() - results.texts.keys()
    again = pictures.keys() & results.problems if retry_failed else set()
    todo = {key: path for key, path in pictures.items() if key in new | again} if results.recogniser else {}
    started = time.monotonic()
    if todo:
        _read(todo, results)
    found = {row: text for row, key in rows.items() if (text := results.texts.get(key))}
    unread = new - todo.keys()
    failed = pictures.keys() - (results.texts.keys() - results.problems) - unread
    reading = Reading(
        engine=results.engine,
        empty=len(empty),
        filled=len(found),
        pictures=len(pictures),
        known=len(pictures.keys() - todo.keys() - failed - unread),
        read=len(todo.keys() - failed),
        failed=len(failed),
        seconds=time.monotonic() - started,
        unread=len(unread),
    )
    return (memes.with_texts(found) if found else memes), reading


def _read(todo: Mapping[str, Path], results: "Readings") -> None:
    """Read the pictures, one per core at a time, and save each result at once."""
    reader = TextReader(recogniser=results.recogniser)

    def work(item: tuple[str, Path]) -> None:
        key, path = item
        try:
            data = read_picture(path)
            if content_key(data) == key:
                results.add(key, reader.read(data))
        except (UnreadableImage, OcrFailed) as error:
            results.add(key, problem=str(error))
        except UnusableFile:
            pass  # removed or changed since it was hashed: embedding reports it, and another run may succeed

    # a short queue, so that a stopped job leaves no pictures waiting
    with tqdm(total=len(todo), desc="reading words", unit=" pictures", smoothing=0.1) as bar:
        for _ in run_ahead(work, todo.items(), cores() + 1):
            bar.update()


class Readings:
    """The results of one engine: {picture key: text, "" also if unreadable}; problems: keys of unreadable pictures."""

    def __init__(self, folder: Path, recogniser: Recogniser | None = None, engine: str = "") -> None:
        """Read the results in `folder`, if there are any; engine: of another one, by its name, to look up only.

        Raises OcrUnavailable, OSError.
        """
        self.recogniser = None if engine else recogniser or Recogniser()
        self.engine = engine or engine_name(recogniser)
        self._path = folder / (re.sub(r"[^a-z0-9.]+", "-", self.engine.lower()) + ".jsonl")
        self.texts: dict[str, str] = {}
        self.problems: set[str] = set()
        for entry in json_lines.read_lines(self._path):
            try:
                self._take(entry["picture"], entry["text"], entry.get("problem", ""))
            except (ValueError, TypeError, KeyError):
                continue  # not one of our lines

    def known(self, key: str) -> str | None:
        """The text on a picture, "" if there is none; None where it has not been read, or could not be."""
        return None if key in self.problems else self.texts.get(key)

    def add(self, key: str, text: str = "", problem: str = "") -> None:
        """Save the result of one picture; safe for several threads and processes. Raises OSError."""
        json_lines.append_line(self._path, {"picture": key, "text": text} | ({"problem": problem} if problem else {}))
        self._take(key, text, problem)

    def _take(self, key: str, text: str, problem: str) -> None:
        self.texts[key] = text
        (self.problems.add if problem else self.problems.discard)(key)
