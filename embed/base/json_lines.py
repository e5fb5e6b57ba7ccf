"""A file of JSON lines that several threads and processes add to, and that a kill may leave with half a line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add(path: Path, said: Any) -> None:
    """Add a line, and the folder where there is none. Raises OSError when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # One write, which nobody else's comes into; its first line break ends what a kill may have left.
        os.write(handle, f"\n{json.dumps(said)}\n".encode())
    finally:
        os.close(handle)


def entries(path: Path) -> Iterator[Any]:
    """What the lines say; none where there is no file. Half a line, from a kill or a full disk, is left out."""
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue
