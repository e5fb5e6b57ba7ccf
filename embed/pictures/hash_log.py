"""What a run has hashed so far, beside the index that it will write: after a kill, no picture is read twice.

    <index>.hashed.jsonl    a line per part of the work: where the pictures are from, and (image, stamp, key) of each

The index takes its place once it is written. It does not know what a stamp is made of.
"""

from collections.abc import Sequence
from pathlib import Path

from embed.base import json_lines as journal


class HashLog:
    """The file beside one index, of the pictures from one place: `images` as the user gave it, "" for the data."""

    def __init__(self, index: Path, images: str) -> None:
        self._path = index.with_name(f"{index.stem}.hashed.jsonl")
        self._images = images

    def read(self) -> dict[str, tuple[str, str]]:
        """{image: (stamp, key)}; empty where no run was cut short."""
        noted: dict[str, tuple[str, str]] = {}
        for said in journal.entries(self._path):
            try:
                if said["images"] == self._images:
                    noted |= {image: (stamp, key) for image, stamp, key in said["hashed"]}
            except (ValueError, TypeError, KeyError):
                continue  # not a line of ours
        return noted

    def add(self, hashed: Sequence[tuple[str, str, str]]) -> None:
        """Note (image, stamp, key) of some pictures; several processes may. Raises OSError when the disk is full."""
        journal.add(self._path, {"images": self._images, "hashed": hashed})

    def forget(self) -> None:
        """The index has it all now."""
        self._path.unlink(missing_ok=True)
