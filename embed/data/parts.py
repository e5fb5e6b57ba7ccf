"""Assign memes of data sets without splits to five parts by content, with near-duplicates in one part.

Near-duplicates share a picture file, a perceptual hash or nearly all words; no encoder's vectors are used. A group's
part is a hash of its content, independent of seed, encoder and number of memes. Recorded memes keep their part when
others are added, and a new near-duplicate joins the older meme's part. `head.data.features` carves splits from the
parts.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from cache import PartRecord, part_of, read_parts, write_parts
from embed.base.threads import run_ahead
from embed.data.memes import Meme
from embed.data.near_duplicates import near_pictures, near_texts, picture_hash, words
from embed.pictures.decoding import UnreadableImage, decode_picture
from embed.pictures.hashing import UnusableFile, read_ahead, read_picture

_AHEAD = 32
# A near-duplicate cluster of more than a tenth of the memes, and more than two, is a template or phrase and is ignored.
_LARGEST_SHARE = 10
_NO_HASH = np.zeros(4, np.uint64)


def assign_parts(memes: Sequence[Meme], keys: Mapping[str, str], root: Path, file: Path) -> list[int]:
    """The part of each meme, 0 to PARTS - 1, or -1 if its picture has no key.

    keys: {image: key}; root: folder of the pictures; file: the record, which is read and updated. The first two parts
    get both labels where possible: a split needs both for evaluation. Raises OSError.
    """
    record = read_parts(file)
    usable = [row for row, meme in enumerate(memes) if meme.image in keys]
    images = {keys[memes[row].image]: memes[row].image for row in usable}
    _hash_missing(record, images, root)
    groups = _groups([keys[memes[row].image] for row in usable], [memes[row].text for row in usable], record.hashes)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row, group in zip(usable, groups):
        members[group].append(row)
    parts = _fill(memes, keys, list(members.values()), record)
    record.parts |= {keys[memes[row].image]: parts[row] for row in usable}
    write_parts(file, record)
    return parts


def _fill(memes: Sequence[Meme], keys: Mapping[str, str], members: list[list[int]], record: PartRecord) -> list[int]:
    """Recorded parts; for other memes the part of their group's oldest meme, or by the group's content."""
    parts, fresh = [-1] * len(memes), []
    for rows in members:
        known = [record.parts.get(keys[memes[row].image]) for row in rows]
        oldest = next((part for part in known if part is not None), None)
        content = min(keys[memes[row].image] for row in rows)
        if oldest is None:
            fresh.append((hashlib.sha256(content.encode()).digest(), rows))
        for row, part in zip(rows, known):
            parts[row] = part if part is not None else part_of(content) if oldest is None else oldest
    for part in (0, 1):
        for label in (0, 1):
            if any(parts[row] == part and memes[row].label == label for rows in members for row in rows):
                continue
            having = [rows for _, rows in sorted(fresh) if any(memes[row].label == label for row in rows)]
            free = [rows for rows in having if parts[rows[0]] > 1]
            for row in free[0] if free else ():
                parts[row] = part
    return parts


def _hash_missing(record: PartRecord, images: Mapping[str, str], root: Path) -> None:
    missing = [key for key in images if key not in record.hashes]
    with read_ahead(root, [images[key] for key in missing]) as ahead:
        hashes = run_ahead(lambda key: _hash(ahead / images[key]), missing, _AHEAD)
        bar = tqdm(hashes, "near-copies", len(missing), unit=" pictures", mininterval=0.5, delay=1)
        record.hashes |= dict(zip(missing, bar))


def _hash(path: Path) -> np.ndarray:
    try:
        found = picture_hash(decode_picture(read_picture(path)))
    except (UnusableFile, UnreadableImage):  # the job reports it and skips the meme
        return _NO_HASH
    return _NO_HASH if found is None else found


def _groups(keys: Sequence[str], texts: Sequence[str], hashes: Mapping[str, np.ndarray]) -> list[int]:
    """The number of the group of each of N memes."""
    largest = max(2, len(keys) // _LARGEST_SHARE)
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        by_key[key].append(place)
    seen = [key for key in by_key if hashes[key].any()]
    clusters = near_pictures(np.array([hashes[key] for key in seen], np.uint64).reshape(-1, 4))
    near = [[place for at in cluster for place in by_key[seen[at]]] for cluster in clusters]
    near += near_texts(words(text) for text in texts)
    # rows with the same picture file always belong together
    together = [*by_key.values(), *(places for places in near if len(places) <= largest)]
    pairs = np.array([(places[0], other) for places in together for other in places[1:]], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), pairs.T), (len(keys), len(keys)))
    return connected_components(graph, directed=False)[1].tolist()
