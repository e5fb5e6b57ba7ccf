"""Append-only JSON-lines files, safe for several writers and for kills in the middle of a line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache import naming


def append_line(path: Path, value: Any) -> None:
    """Append a value as one line, creating missing folders. Raises OSError when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # One O_APPEND write, so lines of other writers do not mix in; the first newline ends a torn line.
        with naming(path):
            os.write(handle, f"\n{json.dumps(value)}\n".encode())
    finally:
        os.close(handle)


def read_lines(path: Path) -> Iterator[Any]:
    """The values of all lines; none if there is no file. Torn lines, from a kill or a full disk, are skipped."""
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue
