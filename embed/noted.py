"""What a run has hashed so far, beside the index that it will write: after a kill, no picture is read twice.

    <index>.hashed.jsonl    a line per part of the work: where the pictures are from, and (image, stamp, key) of each

The index takes its place once it is written. It does not know what a stamp is made of.
"""

import json
import os
from pathlib import Path


class NotedHashes:
    """The file beside one index, of the pictures from one place: `images` as the user gave it, "" for the data."""

    def __init__(self, index: Path, images: str) -> None:
        self._path = index.with_name(f"{index.stem}.hashed.jsonl")
        self._images = images

    def read(self) -> dict[str, tuple[str, str]]:
        """{image: (stamp, key)}; empty where no run was cut short."""
        noted: dict[str, tuple[str, str]] = {}
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else []:
            try:
                said = json.loads(line)
                if said["images"] == self._images:
                    noted |= {image: (stamp, key) for image, stamp, key in said["hashed"]}
            except (ValueError, TypeError, KeyError):
                continue  # half a line that a kill or a full disk left
        return noted

    def add(self, hashed: list[tuple[str, str, str]]) -> None:
        """Note (image, stamp, key) of some pictures; several processes may. Raises OSError when the disk is full."""
        line = json.dumps({"images": self._images, "hashed": hashed})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # One write, which nobody else's comes into; its first line break ends what a kill may have left.
            os.write(handle, f"\n{line}\n".encode())
        finally:
            os.close(handle)

    def forget(self) -> None:
        """The index has it all now."""
        self._path.unlink(missing_ok=True)
