"""The keys of a data set's pictures: each file is read once and hashed, and none is decoded."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from cache import content_key

# The largest picture file that is read into memory.
MAX_FILE_BYTES = 100_000_000


class UnusableFile(ValueError):
    """A picture's file cannot be read."""


def hash_pictures(root: Path, images: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """{image: key} of what can be read under `root`, and {image: reason} of what cannot."""
    names = list(dict.fromkeys(images))
    keys: dict[str, str] = {}
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # a bar only where there is something to wait for
        bar = tqdm(pool.map(lambda name: _key_or_problem(root / name), names), "hashing", len(names), delay=1)
        for name, (key, problem) in zip(names, bar):
            if problem:
                problems[name] = problem
            else:
                keys[name] = key
    return keys, problems


def read_picture(path: Path) -> bytes:
    """A picture file's bytes. Raises UnusableFile for one that is absent, unreadable or larger than the limit."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UnusableFile(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise UnusableFile(f"the file cannot be read ({error.strerror})") from error


def _key_or_problem(path: Path) -> tuple[str, str]:
    try:
        return content_key(read_picture(path)), ""
    except UnusableFile as error:
        return "", str(error)
