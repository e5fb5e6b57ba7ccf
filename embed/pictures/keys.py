"""The keys of a data set's pictures, in columns; unchanged files keep theirs unread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from tqdm import tqdm

from cache import KeyColumn, TextBuilder, TextColumn
from embed.base.text_rows import first_rows
from embed.base.threads import run_ahead
from embed.pictures.hashing import Known, Outcome, hash_part
from embed.pictures.hints import NO_HINTS, Hints, Triple

if TYPE_CHECKING:
    from embed.pictures.remote import RemotePath

# Files per task of a thread: a single file is less work than the hand-over.
_FILES_AT_ONCE = 64
# Tasks in the queue of the threads.
_AHEAD = 256
# Pictures, spread over the data set, that are requested first from an object store: if it is down or denies access,
# each request takes the seconds of several attempts.
_FIRST_REQUESTS = 8

Part = list[Known]
Outcomes = list[Outcome | None]
ListStamps = Callable[[Iterable[str]], dict[str, str]]
Spread = Callable[[Callable[[Part], Outcomes], Iterable[Part]], Iterator[Outcomes]]


class StoreUnreached(ValueError):
    """An object store failed for all pictures requested first, and the reason is not the pictures."""


@dataclass(frozen=True)
class Hashed:
    """Of N pictures: keys and stamps, "" where there is none, and problems, "" or why a picture cannot be read."""

    keys: KeyColumn
    stamps: TextColumn
    problems: TextColumn

    def take(self, rows: np.ndarray) -> "Hashed":
        """Of these rows, (M,) int64."""
        return Hashed(self.keys.take(rows), self.stamps.take(rows), self.problems.take(rows))


def in_threads(work: Callable[[Part], Outcomes], parts: Iterable[Part]) -> Iterator[Outcomes]:
    """`work` of each part, in order, in threads of this machine."""
    return run_ahead(work, parts, _AHEAD)


def hash_pictures(
    root: Path,
    images: Sequence[str],
    hints: Hints = NO_HINTS,
    spread: Spread = in_threads,
    note: Callable[[list[Triple]], None] = lambda triples: None,
) -> Hashed:
    """The keys of N pictures under `root`; none for a picture "". A repeated one is read once. Raises StoreUnreached.

    hints: of an earlier run; spread: the parallel map to use; note: called with (image, stamp, key) of the new or
    changed pictures of each part, so that progress survives a kill.
    """
    images = TextColumn.of(images)
    first = first_rows(images)
    asked = np.flatnonzero((first == np.arange(len(images))) & (images.lengths > 0))
    repeats = len(asked) < len(images)
    distinct = images.take(asked) if repeats else images
    # no bar if it takes less than a second
    with tqdm(total=len(distinct), desc="hashing", unit=" files", delay=1) as bar:
        hashed = _Hasher(root, spread, note, bar).hash(distinct, hints)
    if not repeats:
        return hashed
    at = np.full(len(images), len(asked))
    at[asked] = np.arange(len(asked))
    return _joined([hashed, _NOTHING]).take(at[first])


@dataclass(frozen=True)
class _Hasher:
    root: Path
    spread: Spread
    note: Callable[[list[Triple]], None]
    bar: tqdm

    def hash(self, images: TextColumn, hints: Hints) -> Hashed:
        """In one round, or for an object store in two: first a few pictures spread over the data set."""
        stamps, keys = hints.find(images)
        if isinstance(self.root, Path):
            return self._round(images, stamps, keys, lambda _: {})
        listing = cast("RemotePath", self.root).listing(images)
        places = np.arange(len(images))
        few = places % max(1, len(images) // _FIRST_REQUESTS) == 0
        done = []
        for rows in (places[few], places[~few]):
            done.append(self._round(images.take(rows), stamps.take(rows), keys.take(rows), listing.stamps))
            _check_reached(self.root, done[0])
        return _joined(done).take(np.argsort(np.concatenate([places[few], places[~few]])))

    def _round(self, images: TextColumn, known: TextColumn, keys: KeyColumn, list_stamps: ListStamps) -> Hashed:
        sent: deque[Part] = deque()
        stamps, problems, raw, row = TextBuilder(), TextBuilder(), keys.raw.copy(), 0
        parts = _parts(images, known, list_stamps(images), sent)
        for outcomes in self.spread(partial(hash_part, self.root), parts):
            part = sent.popleft()
            new = [(place, outcome) for place, outcome in enumerate(outcomes) if outcome is not None]
            for place, outcome in new:
                raw[row + place] = np.frombuffer(bytes.fromhex(outcome.key), np.uint8) if outcome.key else 0
            stamps.extend(stamp if out is None else out.stamp for (_, stamp, _), out in zip(part, outcomes))
            problems.extend("" if out is None else out.problem for out in outcomes)
            if found := [(part[place][0], out.stamp, out.key) for place, out in new if out.stamp]:
                self.note(found)
            row += len(part)
            self.bar.update(len(part))
        return Hashed(KeyColumn(raw), stamps.column(), problems.column())


def _parts(images: TextColumn, stamps: TextColumn, listed: dict[str, str], sent: deque[Part]) -> Iterator[Part]:
    """The pictures with their known and listed stamps, some at a time; `sent` gets each part that is on its way."""
    asked = ((image, stamp, listed.get(image)) for image, stamp in zip(images, stamps))
    while part := list(islice(asked, _FILES_AT_ONCE)):
        sent.append(part)
        yield part


def _joined(parts: Sequence[Hashed]) -> Hashed:
    stamps, problems = TextBuilder(), TextBuilder()
    for part in parts:
        stamps.extend(part.stamps)
        problems.extend(part.problems)
    return Hashed(KeyColumn(np.concatenate([p.keys.raw for p in parts])), stamps.column(), problems.column())


def _check_reached(root: Path, hashed: Hashed) -> None:
    reasons = set(hashed.problems)
    if hashed.keys.present.any() or len(reasons) != 1:
        return
    from embed.pictures.remote import UNREACHED

    if (reason := reasons.pop()).startswith(UNREACHED):
        raise StoreUnreached(f"IMAGES={root}: {reason}; the same for all {len(hashed.keys)} pictures tried")


_NOTHING = Hashed(KeyColumn.of([""]), TextColumn.of([""]), TextColumn.of([""]))
