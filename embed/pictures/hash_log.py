"""Log of the pictures hashed so far, so that a run after a kill does not read them again.

    <index>.hashed.jsonl    one line per batch: the picture folder, and (image, stamp, key) of each picture

It is removed once the index, which has the same facts, is written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from embed.base import json_lines
from embed.pictures.hints import Hints, Triple


class HashLog:
    """The log beside one index. images: folder or URL of the pictures as the user gave it, "" for the data folder."""

    def __init__(self, index: Path, images: str) -> None:
        self._path = index.with_name(f"{index.stem}.hashed.jsonl")
        self._images = images

    def read(self) -> Hints:
        """The pictures hashed so far; none unless a run was interrupted."""
        return Hints.of(self._triples())

    def _triples(self) -> Iterator[Triple]:
        for entry in json_lines.read_lines(self._path):
            try:
                if entry["images"] == self._images:
                    yield from [(f"{image}", f"{stamp}", _checked(key)) for image, stamp, key in entry["hashed"]]
            except (ValueError, TypeError, KeyError):
                continue  # not one of our lines

    def add(self, hashed: Sequence[Triple]) -> None:
        """Append (image, stamp, key) tuples; safe for several processes. Raises OSError when the disk is full."""
        json_lines.append_line(self._path, {"images": self._images, "hashed": hashed})

    def forget(self) -> None:
        """Remove the log, once the index is written."""
        self._path.unlink(missing_ok=True)


def _checked(key: str) -> str:
    """The key. Raises ValueError for what is none."""
    if len(bytes.fromhex(key)) != 32:
        raise ValueError(f"{key}: not a key")
    return key
