"""In which fifth each meme of a data set without splits stands: by its content, on record, and never another.

Memes are grouped by their pictures (the file, or a perceptual hash) and by their words, never by an encoder's vectors. A
group's part follows from a hash of its content, so that neither the seed nor the encoder nor the number of memes moves it;
what is on record keeps its part when others are added, and a new near-copy joins the part of the older meme. What the
parts are for, `head.data.features` knows. The embedding job calls it.
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
from embed.data.dataset import Meme
from embed.data.near_duplicates import near_pictures, near_texts, picture_hash, words
from embed.pictures.decoding import UnreadableImage, decode_picture
from embed.pictures.hashing import UnusableFile, read_picture

_AHEAD = 32
# What more than a tenth of the memes share, and more than two, is a template or a phrase and makes them no copies.
_LARGEST_SHARE = 10
_NO_HASH = np.zeros(4, np.uint64)


def assign_parts(memes: Sequence[Meme], keys: Mapping[str, str], root: Path, file: Path) -> list[int]:
    """The part of each meme, 0 to PARTS - 1, -1 where its picture has no key; keys: {image: key}; root: the folder of the
    pictures; file: the record, which is read and brought up to date.

    The first two parts hold both labels where there are any to give: a split of one label judges nothing. Raises OSError.
    """
    record = read_parts(file)
    there = [row for row, meme in enumerate(memes) if meme.image in keys]
    of = {keys[memes[row].image]: memes[row].image for row in there}
    _hash_missing(record, of, root)
    groups = _groups([keys[memes[row].image] for row in there], [memes[row].text for row in there], record.hashes)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row, group in zip(there, groups):
        members[group].append(row)
    parts = _fill(memes, keys, list(members.values()), record)
    record.parts |= {keys[memes[row].image]: parts[row] for row in there}
    write_parts(file, record)
    return parts


def _fill(memes: Sequence[Meme], keys: Mapping[str, str], members: list[list[int]], record: PartRecord) -> list[int]:
    """The parts on record, and of the others that of their group, by its oldest meme or by its content."""
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


def _hash_missing(record: PartRecord, of: Mapping[str, str], root: Path) -> None:
    missing = [key for key in of if key not in record.hashes]
    hashes = run_ahead(lambda key: _hash(root / of[key]), missing, _AHEAD)
    bar = tqdm(hashes, "near-copies", len(missing), unit=" pictures", mininterval=0.5, delay=1)
    record.hashes |= dict(zip(missing, bar))


def _hash(path: Path) -> np.ndarray:
    try:
        found = picture_hash(decode_picture(read_picture(path)))
    except (UnusableFile, UnreadableImage):  # the job says it, and leaves the meme out
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
    near += near_texts([words(text) for text in texts])
    # one file is one meme, however many rows have it
    together = [*by_key.values(), *(places for places in near if len(places) <= largest)]
    pairs = np.array([(places[0], other) for places in together for other in places[1:]], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), pairs.T), (len(keys), len(keys)))
    return connected_components(graph, directed=False)[1].tolist()
