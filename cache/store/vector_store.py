"""The vector store of one feature spec: list its keys, add rows, read rows in any order.

Files:
    <root>/<spec id>/spec.json             the spec, as canonical JSON
    <root>/<spec id>/manifest.jsonl        one line per segment: name, kind, rows, SHA-256
    <root>/<spec id>/{image,text}-<hash>.h5   immutable segments
    <root>/<spec id>/headers.h5            what the segments hold, see `cache.store.headers`; may be removed
    <root>/<spec id>/.lock                 empty; locked by the writer
    <root>/<spec id>/*.h5.damaged          damaged segments that were moved aside; nothing reads them
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cache.columns import KeyColumn
from cache.files import file_stamp, remove_leftovers, sync, write_text_atomically
from cache.store import headers
from cache.store.headers import KnownSegment
from cache.store.key_table import KeyTable
from cache.store.lock import locked_folder
from cache.store.manifest import (
    SEGMENT_NAMES,
    Entry,
    append_entry,
    manifest_entry,
    manifest_path,
    read_manifest,
    segment_files,
    write_manifest,
)
from cache.store.rows import KindRows
from cache.store.segments import (
    KINDS,
    DamagedSegment,
    Header,
    Segment,
    check_segment,
    read_header,
    read_vectors,
    write_segment,
)
from cache.store.spec import Spec, canonical_json, require_same_spec, spec_id

# What is written under the lock only.
_WRITTEN = rf"{SEGMENT_NAMES}|manifest\.jsonl|{headers.FILE}"
_NO_STAMP = [0, 0, 0, 0]  # of a file that came or went just now: it is hashed again


class MissingVectors(ValueError):
    """Requested vectors are not in the store."""


class VectorStore:
    """Vectors made under one spec. Opening it checks the SHA-256 of every segment that has changed, and reads no vector.

    damaged: names of segments that are missing or fail their SHA-256. Their rows count as absent, so that the embedding
    job recomputes them; `forget_damaged` clears the list. A segment that cannot be read is an OSError, and nothing is changed.
    Keys are given as a `KeyColumn` or as any sequence of hex digits.
    """

    damaged: list[str]

    def __init__(self, root: Path, spec: Spec) -> None:
        """Open `root`/<spec id>; a new store is written at the first `add`.

        A lost or damaged spec.json is written again. Raises OSError, and SpecMismatch if the folder has another spec.
        """
        self.spec = spec
        self.folder = Path(root) / spec_id(spec)
        if segment_files(self.folder) or (self.folder / "spec.json").exists():
            require_same_spec(self._stored_spec(), spec, f"the store {self.folder}")
        self._reread()

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the writer's lock; `waiting` is called once if another process holds it, then its release is awaited.

        Rows that the other process added are known inside the block, so no row is computed twice. Readers do not wait.
        Raises as `cache.store.lock.locked_folder`, OSError e.g. without write permission.
        """
        with locked_folder(self.folder, waiting):
            remove_leftovers(self.folder, _WRITTEN)
            if self._look() != self._seen:
                self._reread()
            try:
                yield
            finally:
                self._remember()

    def known(self, kind: str) -> set[str]:
        """The keys of `kind` that have a vector."""
        return set(self.keys(kind))

    def keys(self, kind: str) -> KeyColumn:
        """The keys of `kind` that have a vector, sorted."""
        return self._rows[kind].keys

    def has(self, kind: str, keys: Collection[str]) -> np.ndarray:
        """(N,) bool: whether each key has a vector."""
        return self._rows[kind].find(KeyColumn.of(keys)) >= 0

    def failed(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N,) bool: whether each key is among the `failures`."""
        return KeyTable(KeyColumn.of(self.failures(kind))).find(KeyColumn.of(keys)) >= 0

    def failures(self, kind: str) -> dict[str, str]:
        """{key: reason} of items that could not be embedded, without those embedded later."""
        return self._rows[kind].failures()

    def token_counts(self, keys: Sequence[str]) -> np.ndarray:
        """(N,) int32: tokens of each text before truncation. Raises MissingVectors."""
        return self._rows["text"].tokens(self._find("text", keys))

    def require(self, kind: str, keys: Sequence[str]) -> None:
        """Raise MissingVectors unless all of `keys` have a vector."""
        self._find(kind, keys)

    def read(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N, D) float32 vectors in the order of `keys`, repeats allowed, in one pass over each segment that has some.

        If another process has merged segments meanwhile, or one proves damaged, the store is read again. Raises
        MissingVectors, also for rows of a damaged segment, and OSError.
        """
        try:
            return self._gather(kind, keys)
        except DamagedSegment:  # with the stamp of an intact one, or merged meanwhile
            if self._look() == self._seen:
                headers.forget(self.folder)
            self._reread()
        return self._gather(kind, keys)

    def add(self, kind: str, segment: Segment) -> None:
        """Write one segment of `kind` "image" or "text", and its manifest line. Call under `locked`.

        segment: (N, D) finite float32 vectors; D has to be that of the store's other segments of this kind and is not
        checked here. A key that exists already gets the new row. Raises OSError, e.g. when the disk is full; earlier
        segments stay.
        """
        if not (self.folder / "spec.json").exists():
            write_text_atomically(self.folder / "spec.json", canonical_json(self.spec))
        path, digest = write_segment(self.folder, kind, segment)
        entry = manifest_entry(path, len(segment.keys), digest)
        append_entry(self.folder, entry)
        self._take(KnownSegment(path, file_stamp(path) or _NO_STAMP, digest, Header.of(segment)), entry)
        self._seen |= {changed: file_stamp(changed) for changed in (path, manifest_path(self.folder))}

    def forget_damaged(self) -> None:
        """Rename damaged segments to `<name>.damaged` and remove their manifest lines; call under `locked`, and report them.

        Raises OSError.
        """
        for name in self.damaged:
            with suppress(FileNotFoundError):
                (self.folder / name).rename(self.folder / f"{name}.damaged")
        write_manifest(self.folder, (e for e in read_manifest(self.folder)[0] if e["segment"] not in self.damaged))
        self.damaged = []

    def headers(self, kind: str) -> dict[Path, Header]:
        """{segment path: its header} of the intact segments, in their order."""
        return {segment.path: segment.header for segment in self._rows[kind].segments}

    def held(self, kind: str) -> dict[Path, np.ndarray]:
        """{segment path: (L,) the rows that `read` takes from it, ascending} of the intact segments, in their order."""
        return self._rows[kind].held()

    def replace(self, old: Sequence[Path], new: Sequence[Entry]) -> None:
        """Replace the segments `old` by `new`, already written, in the manifest, then delete the files of `old`.

        Call under `locked`; a kill at any moment loses no row. Raises OSError.
        """
        names = {path.name for path in old}
        whole = [entry for name, entry in self._entries.items() if name not in names]
        damaged = [entry for entry in read_manifest(self.folder)[0] if entry["segment"] in self.damaged]
        wanted = [*whole, *damaged, *new]  # new ones last: the last row of a key wins
        if read_manifest(self.folder) != (wanted, []):
            write_manifest(self.folder, wanted)
        # a merged segment with the same bytes as an old one has the same name and stays
        for name in names - {entry["segment"] for entry in new}:
            (self.folder / name).unlink(missing_ok=True)
        if self._look() != self._seen:
            sync(self.folder)
            self._reread()

    def _stored_spec(self) -> Spec:
        path = self.folder / "spec.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            # the folder's name is the spec's hash, so spec.json can be written again
            write_text_atomically(path, canonical_json(self.spec))
            return self.spec

    def _reread(self) -> None:
        for _ in range(2):
            self._seen = self._look()
            self._scan()
            # another process may merge segments during the scan; the second scan finds the merged ones
            if not self.damaged or self._look() == self._seen:
                return

    def _look(self) -> dict[Path, list[int] | None]:
        """Stamps of the segments and the manifest, to detect changes."""
        return {path: file_stamp(path) for path in (*segment_files(self.folder), manifest_path(self.folder))}

    def _scan(self) -> None:
        self.damaged = []
        self._rows = {kind: KindRows() for kind in KINDS}
        self._entries: dict[str, Entry] = {}
        known = headers.remembered(self.folder)
        self._remembered = {name: segment.stamp for name, segment in known.items()}
        promised = dict.fromkeys(entry["segment"] for entry in read_manifest(self.folder)[0])
        # A kill leaves complete segments that are not listed yet, or not any more: first, so that listed ones win.
        unlisted = [path.name for path in self._seen if path.suffix == ".h5" and path.name not in promised]
        for name in [*unlisted, *promised]:
            segment, stamp = known.get(name), self._seen.get(self.folder / name)
            try:
                if segment is None or segment.stamp != stamp:
                    segment = _hashed(self.folder / name, stamp)
            except DamagedSegment:
                self.damaged.append(name)
            else:
                self._take(segment, manifest_entry(segment.path, len(segment.header.keys), segment.digest))

    def _take(self, segment: KnownSegment, entry: Entry) -> None:
        self._rows[entry["kind"]].add(segment)
        self._entries[entry["segment"]] = entry

    def _remember(self) -> None:
        """Note what the segments hold, if that is not noted already."""
        segments = [segment for rows in self._rows.values() for segment in rows.segments]
        stamps = {segment.path.name: segment.stamp for segment in segments}
        if segments and stamps != self._remembered:
            headers.remember(self.folder, segments)
            self._remembered = stamps

    def _gather(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        rows = self._find(kind, keys)
        order = np.argsort(rows, kind="stable")
        vectors = np.empty((0, 0), np.float32)
        for path, places, wanted in self._rows[kind].by_segment(rows[order]):
            first = int(wanted[0])
            found = read_vectors(path, first, int(wanted[-1]) + 1)
            if not vectors.size:
                vectors = np.empty((len(rows), found.shape[1]), np.float32)
            vectors[order[places]] = found[wanted - first]
        return vectors

    def _find(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N,) int64: the rows of keys. Raises MissingVectors."""
        column = KeyColumn.of(keys)
        rows = self._rows[kind].find(column)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            hint = f" ({len(self.damaged)} segments are damaged: {', '.join(self.damaged)})" if self.damaged else ""
            raise MissingVectors(
                f"{self.folder}: {len(missing)} of {len(rows)} {kind} vectors are not there, "
                f"first {column[int(missing[0])]}{hint}; run the embedding job again, it computes the missing ones"
            )
        return rows


def _hashed(path: Path, stamp: list[int] | None) -> KnownSegment:
    """An intact segment that is read. stamp: from before it was hashed. Raises DamagedSegment, OSError."""
    digest = check_segment(path)
    return KnownSegment(path, stamp or _NO_STAMP, digest, read_header(path))
