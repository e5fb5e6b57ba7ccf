"""Take vectors over from the store of the spec without the field `picture`, where they stay valid.

Texts do, and pictures that a person sees as they are stored. Nothing is removed from the older store, which bundles of
its spec go on using.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache import Segment, VectorStore, content_key
from embed.base.threads import run_ahead
from embed.clip.options import older_spec
from embed.pictures.decoding import UnreadableImage, appearance_changes
from embed.pictures.hashing import UnusableFile, read_ahead, read_picture

# Rows of a segment: 4,096 of 1,024 columns take 16 MB.
_ROWS = 4096
# Pictures in the queue of the threads.
_AHEAD = 256


def adopt_vectors(
    store: VectorStore, missing: dict[str, dict[str, str]], root: Path, say: Callable[[str], None]
) -> None:
    """Copy the missing vectors that the older store of the same encoder holds, and say which change. Call locked.

    missing: {"image" | "text": {key: image under `root`, or text}}; pictures that change, cannot be read or are other
    ones by now are left for the job. Raises OSError, e.g. when the disk is full.
    """
    if "picture" not in store.spec:
        return
    older = VectorStore(store.folder.parent, older_spec(store.spec))
    held = {kind: dict(compress(items.items(), older.has(kind, items))) for kind, items in missing.items()}
    _copy(older, store, "text", list(held["text"]))
    unchanged, changes = _sort(root, held["image"])
    _copy(older, store, "image", unchanged)
    if held["image"]:
        say(_summary(len(held["image"]), changes))


def _sort(root: Path, images: dict[str, str]) -> tuple[list[str], list[str]]:
    """The keys of the pictures that stay as they are, and why each of the others changes."""

    def look(item: tuple[str, str]) -> str:
        key, image = item
        try:
            data = read_picture(ahead / image)
            changes = appearance_changes(data) if content_key(data) == key else ["another file by now"]
        except (UnusableFile, UnreadableImage):
            changes = ["unreadable by now"]
        return " and ".join(changes)

    with read_ahead(root, images.values()) as ahead:
        reasons = tqdm(run_ahead(look, images.items(), _AHEAD), "looking", len(images), unit=" pictures", delay=1)
        found = dict(zip(images, reasons, strict=True))
    return [key for key, reason in found.items() if not reason], [reason for reason in found.values() if reason]


def _copy(older: VectorStore, store: VectorStore, kind: str, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), _ROWS):
        part = keys[start : start + _ROWS]
        tokens = older.token_counts(part) if kind == "text" else np.zeros(len(part), np.int32)
        store.add(kind, Segment(part, older.read(kind, part), tokens))


def _summary(total: int, changes: Sequence[str]) -> str:
    if not changes:
        return f"all {total} pictures are seen as before: their vectors are kept"
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(sorted(changes)).most_common())
    return (
        f"{len(changes)} of {total} pictures are now judged as a person sees them, and are embedded again ({reasons}); "
        f"the vectors of the other {total - len(changes)} are kept"
    )
