"""The vector store of one feature spec: list its keys, add rows, read rows in any order.

Files:
    <root>/<spec id>/spec.json             the spec, as canonical JSON
    <root>/<spec id>/manifest.jsonl        one line per segment: name, kind, rows, SHA-256
    <root>/<spec id>/{image,text}-<hash>.h5   immutable segments
    <root>/<spec id>/.lock                 empty; locked by the writer
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np

from cache.files import file_stamp, sync, write_text_atomically
from cache.store.lock import locked_folder
from cache.store.manifest import (
    Entry,
    append_entry,
    check_segment,
    manifest_entry,
    manifest_path,
    read_manifest,
    segment_files,
    segment_kind,
    write_manifest,
)
from cache.store.segments import KINDS, DamagedSegment, Segment, read_header, read_vectors, write_segment
from cache.store.spec import Spec, canonical_json, require_same_spec, spec_id


class MissingVectors(ValueError):
    """Requested vectors are not in the store."""


class VectorStore:
    """Vectors made under one spec. Opening it checks every segment's SHA-256 and reads no vector.

    damaged: names of segments that are missing or fail their SHA-256. Their rows count as absent, so that the embedding
    job recomputes them; `forget_damaged` clears the list.
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
            if self._look() != self._seen:
                self._reread()
            yield

    def known(self, kind: str) -> set[str]:
        """The keys of `kind` that have a vector."""
        return set(self._rows[kind])

    def failures(self, kind: str) -> dict[str, str]:
        """{key: reason} of items that could not be embedded, without those embedded later."""
        return {key: reason for key, reason in self._failures[kind].items() if key not in self._rows[kind]}

    def token_counts(self, keys: Sequence[str]) -> np.ndarray:
        """(N,) int32: tokens of each text before truncation. Raises MissingVectors."""
        self._places("text", keys)
        return np.array([self._tokens[key] for key in keys], np.int32)

    def read(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N, D) float32 vectors in the order of `keys`, repeats allowed. Raises MissingVectors, DamagedSegment.

        If another process has merged segments meanwhile, the store is read again.
        """
        try:
            return self._gather(kind, keys)
        except DamagedSegment:
            if all(path.is_file() for path in self._segments):
                raise
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
        self._take(path, entry, segment.keys, segment.tokens, segment.failures)

    def forget_damaged(self) -> None:
        """Remove the files and manifest lines of damaged segments; call after reporting them. Raises OSError."""
        for name in self.damaged:
            (self.folder / name).unlink(missing_ok=True)
        write_manifest(self.folder, (e for e in read_manifest(self.folder)[0] if e["segment"] not in self.damaged))
        self.damaged = []

    def held(self, kind: str) -> dict[Path, dict[str, int]]:
        """{segment path: {key: row}} of the intact segments, in their order: the rows that `read` takes from each."""
        found: dict[Path, dict[str, int]] = {path: {} for path in self._segments if segment_kind(path.name) == kind}
        for key, (number, row) in sorted(self._rows[kind].items(), key=lambda item: item[1]):
            found[self._segments[number]][key] = row
        return found

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

    def _look(self) -> list[tuple[str, list[int] | None]]:
        """Names and stamps of the segments and the manifest, to detect changes."""
        return [(path.name, file_stamp(path)) for path in (*segment_files(self.folder), manifest_path(self.folder))]

    def _scan(self) -> None:
        self.damaged = []
        self._rows: dict[str, dict[str, tuple[int, int]]] = {kind: {} for kind in KINDS}  # key -> segment, row
        self._failures: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self._tokens: dict[str, int] = {}
        self._segments: list[Path] = []
        self._entries: dict[str, Entry] = {}
        promised = dict.fromkeys(entry["segment"] for entry in read_manifest(self.folder)[0])
        # A kill leaves complete segments that are not listed yet, or not any more: first, so that listed ones win.
        unlisted = [path.name for path in segment_files(self.folder) if path.name not in promised]
        for name in [*unlisted, *promised]:
            path = self.folder / name
            try:
                digest = check_segment(path)
                keys, tokens, failures = read_header(path)
                self._take(path, manifest_entry(path, len(keys), digest), keys, tokens, failures)
            except DamagedSegment:
                self.damaged.append(name)

    def _take(
        self, path: Path, entry: Entry, keys: Sequence[str], tokens: np.ndarray, failures: dict[str, str]
    ) -> None:
        kind, number = entry["kind"], len(self._segments)
        self._segments.append(path)
        self._entries[path.name] = entry
        self._rows[kind].update(zip(keys, zip(repeat(number), range(len(keys)))))
        if kind == "text":
            self._tokens.update(zip(keys, tokens.tolist()))
        self._failures[kind].update(failures)

    def _gather(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        places = np.array(self._places(kind, keys), np.int64).reshape(-1, 2)  # (N, 2): segment, row
        vectors = np.empty((0, 0), np.float32)
        for number in np.unique(places[:, 0]):
            rows = read_vectors(self._segments[number])
            if not vectors.size:
                vectors = np.empty((len(places), rows.shape[1]), np.float32)
            wanted = places[:, 0] == number
            vectors[wanted] = rows[places[wanted, 1]]
        return vectors

    def _places(self, kind: str, keys: Sequence[str]) -> list[tuple[int, int]]:
        rows = self._rows[kind]
        missing = [key for key in keys if key not in rows]
        if missing:
            hint = f" ({len(self.damaged)} segments are damaged: {', '.join(self.damaged)})" if self.damaged else ""
            raise MissingVectors(
                f"{self.folder}: {len(missing)} of {len(keys)} {kind} vectors are not there, "
                f"first {missing[0]}{hint}; run the embedding job again, it computes the missing ones"
            )
        return [rows[key] for key in keys]
