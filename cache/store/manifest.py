"""The manifest of a store: which segments exist, with row counts and checksums.

    manifest.jsonl   one JSON object per line: segment (file name), kind, rows, sha256

An unreadable line loses nothing: a segment's file name contains its hash.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cache.files import naming, sync, write_text_atomically
from cache.store.segments import KINDS

Entry = dict[str, Any]
# Files with other names are neither read nor removed, whatever the manifest says.
SEGMENT_NAMES = rf"({'|'.join(KINDS)})-([0-9a-f]{{20}})\.h5"
_SEGMENT_NAME = re.compile(SEGMENT_NAMES)


def manifest_path(folder: Path) -> Path:
    """The path of a store's manifest."""
    return folder / "manifest.jsonl"


def manifest_entry(path: Path, rows: int, digest: str) -> Entry:
    """The manifest line of a segment: file name, number of keys and SHA-256."""
    return {"segment": path.name, "kind": segment_kind(path.name), "rows": rows, "sha256": digest}


def segment_kind(name: str) -> str:
    """The kind of a segment's rows, "image" or "text", from its file name."""
    return name.split("-")[0]


def read_manifest(folder: Path) -> tuple[list[Entry], list[int]]:
    """The entries, and the numbers (from 1) of unreadable lines: cut by a kill, or damaged."""
    entries: list[Entry] = []
    unreadable: list[int] = []
    for number, line in enumerate(_lines(manifest_path(folder)), start=1):
        try:
            entry = json.loads(line)
            if not _SEGMENT_NAME.fullmatch(entry["segment"]):
                raise ValueError("not a segment name")
            entries.append(entry)
        except (ValueError, TypeError, KeyError):
            unreadable.append(number)
    return entries, unreadable


def write_manifest(folder: Path, entries: Iterable[Entry]) -> None:
    """Replace the manifest atomically. Raises OSError."""
    write_text_atomically(manifest_path(folder), "".join(f"{json.dumps(entry)}\n" for entry in entries))


def append_entry(folder: Path, entry: Entry) -> None:
    """Append a line by one O_APPEND write, so that lines of two jobs do not mix. Raises OSError."""
    path = manifest_path(folder)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # last line of a killed job
        with naming(path):
            os.write(handle, (("\n" if torn else "") + json.dumps(entry) + "\n").encode())
            os.fsync(handle)
    finally:
        os.close(handle)
    sync(folder)


def segment_files(folder: Path) -> list[Path]:
    """The files with segment names, sorted, whether in the manifest or not. Raises OSError, but not for a missing folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _SEGMENT_NAME.fullmatch(entry.name) and entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").removesuffix("\n").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
