"""The vector store of one feature spec: which keys it holds, adding rows, reading them in any order.

    <root>/<spec id>/spec.json             the spec, as canonical JSON
    <root>/<spec id>/manifest.jsonl        one line per segment: name, kind, rows, SHA-256
    <root>/<spec id>/{image,text}-<hash>.h5   immutable segments
    <root>/<spec id>/.lock                 empty; who adds to the store holds it

It does not know what made the vectors or what they are for.
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
    """Vectors that were asked for are not in the store."""


class VectorStore:
    """Vectors made under one spec. Opening it checks every segment's SHA-256 and reads no vector.

    `damaged` names what the manifest promises and the disk does not hold as written; those rows count as
    absent, so that the embedding job makes them again, and `forget_damaged` clears the names.
    """

    damaged: list[str]

    def __init__(self, root: Path, spec: Spec) -> None:
        """Open or prepare `root`/<spec id>; nothing is written before the first `add`.

        Raises SpecMismatch when the folder was made under another spec.
        """
        self.spec = spec
        self.folder = Path(root) / spec_id(spec)
        if segment_files(self.folder) or (self.folder / "spec.json").exists():
            require_same_spec(self._stored_spec(), spec, f"the store {self.folder}")
        self._reread()

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only process that adds to this store; call `waiting` once when another one is, then wait for it.

        What that one added is known when the block begins, so no row is made twice. Readers are not kept waiting.
        Raises OSError, naming the folder, where it cannot be made or locked, as it is where this user may not write.
        """
        with locked_folder(self.folder, waiting):
            if self._look() != self._seen:
                self._reread()
            yield

    def known(self, kind: str) -> set[str]:
        """The keys of `kind` that have a vector."""
        return set(self._rows[kind])

    def failures(self, kind: str) -> dict[str, str]:
        """{key: reason} of what could not be embedded, and was not embedded later."""
        return {key: reason for key, reason in self._failures[kind].items() if key not in self._rows[kind]}

    def token_counts(self, keys: Sequence[str]) -> np.ndarray:
        """(N,) int32: tokens of each text before truncation. Raises MissingVectors."""
        self._places("text", keys)
        return np.array([self._tokens[key] for key in keys], np.int32)

    def read(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N, D) float32 vectors in the order of `keys`, repeats allowed. Raises MissingVectors, DamagedSegment.

        Where another process has merged segments meanwhile, the store is read again.
        """
        try:
            return self._gather(kind, keys)
        except DamagedSegment:
            if all(path.is_file() for path in self._segments):
                raise
        self._reread()
        return self._gather(kind, keys)

    def add(self, kind: str, segment: Segment) -> None:
        """Write one segment, of `kind` "image" or "text", and its line in the manifest; from then on `read` gives its rows.

        segment: (N, D) finite float32 vectors, D as in the store's other segments of this kind, which is not checked here;
        of a key that is there already the new row wins. To be called under `locked`. Raises OSError, e.g. when the disk is
        full; what was written before stays.
        """
        if not (self.folder / "spec.json").exists():
            write_text_atomically(self.folder / "spec.json", canonical_json(self.spec))
        path, digest = write_segment(self.folder, kind, segment)
        entry = manifest_entry(path, len(segment.keys), digest)
        append_entry(self.folder, entry)
        self._take(path, entry, segment.keys, segment.tokens, segment.failures)

    def forget_damaged(self) -> None:
        """Drop damaged segments' files and manifest lines, once their loss has been said aloud."""
        for name in self.damaged:
            (self.folder / name).unlink(missing_ok=True)
        write_manifest(self.folder, (e for e in read_manifest(self.folder)[0] if e["segment"] not in self.damaged))
        self.damaged = []

    def held(self, kind: str) -> dict[Path, dict[str, int]]:
        """{segment: {key: row}} of all whole segments, in their order: what `read` takes from each."""
        found: dict[Path, dict[str, int]] = {path: {} for path in self._segments if segment_kind(path.name) == kind}
        for key, (number, row) in sorted(self._rows[kind].items(), key=lambda item: item[1]):
            found[self._segments[number]][key] = row
        return found

    def replace(self, old: Sequence[Path], new: Sequence[Entry]) -> None:
        """Make the manifest name segments `new`, already written, instead of `old`, then remove the files of `old`.

        To be called under `locked`; a kill at any moment leaves every row. Raises OSError.
        """
        names = {path.name for path in old}
        whole = [entry for name, entry in self._entries.items() if name not in names]
        damaged = [entry for entry in read_manifest(self.folder)[0] if entry["segment"] in self.damaged]
        wanted = [*whole, *damaged, *new]  # the new last, because the last one wins
        if read_manifest(self.folder) != (wanted, []):
            write_manifest(self.folder, wanted)
        # A merged segment may be, byte for byte, one of the old: then it has the same name, and stays.
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
            # The folder's name is the spec's hash, so a lost or damaged copy can be written again.
            write_text_atomically(path, canonical_json(self.spec))
            return self.spec

    def _reread(self) -> None:
        for _ in range(2):
            self._seen = self._look()
            self._scan()
            # Segments may vanish under the scan when another process merges them; theirs are there at a second look.
            if not self.damaged or self._look() == self._seen:
                return

    def _look(self) -> list[tuple[str, list[int] | None]]:
        """What changes when anything in the folder does: names and stamps."""
        return [(path.name, file_stamp(path)) for path in (*segment_files(self.folder), manifest_path(self.folder))]

    def _scan(self) -> None:
        self.damaged = []
        self._rows: dict[str, dict[str, tuple[int, int]]] = {kind: {} for kind in KINDS}  # key -> segment, row
        self._failures: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self._tokens: dict[str, int] = {}
        self._segments: list[Path] = []
        self._entries: dict[str, Entry] = {}
        promised = dict.fromkeys(entry["segment"] for entry in read_manifest(self.folder)[0])
        # A kill between a segment's rename and its manifest line leaves a whole file whose name holds its hash. It
        # comes first, so that what the manifest names wins: a kill may also leave segments that were merged.
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
                f"first {missing[0]}{hint}; run the embedding job again, it makes what is missing"
            )
        return [rows[key] for key in keys]
