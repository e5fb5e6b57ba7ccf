"""The vector store of one feature spec: which keys it holds, adding rows, reading them in any order.

    <root>/<spec id>/spec.json             the spec, as canonical JSON
    <root>/<spec id>/manifest.jsonl        one line per segment: name, kind, rows, SHA-256
    <root>/<spec id>/{image,text}-<hash>.h5   immutable segments

It does not know what made the vectors or what they are for.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cache.files import sync, write_text_atomically
from cache.keys import file_digest
from cache.segments import DamagedSegment, Segment, read_header, read_vectors, write_segment
from cache.spec import Spec, canonical_json, require_same_spec, spec_id

KINDS = ("image", "text")
# Files of other names are not ours, to read or to remove, whatever a manifest says.
_SEGMENT_NAME = re.compile(rf"({'|'.join(KINDS)})-([0-9a-f]{{20}})\.h5")


class MissingVectors(ValueError):
    """Vectors that were asked for are not in the store."""


class VectorStore:
    """Vectors made under one spec. Opening it checks every segment's SHA-256 and reads no vector.

    `damaged` names what the manifest promises and the disk does not hold as written; those rows count as
    absent, so that the embedding job makes them again, and `forget_damaged` clears the names.
    """

    def __init__(self, root: Path, spec: Spec) -> None:
        """Open or prepare `root`/<spec id>; nothing is written before the first `add`.

        Raises SpecMismatch when the folder was made under another spec.
        """
        self.spec = spec
        self.folder = Path(root) / spec_id(spec)
        self.damaged: list[str] = []
        self._rows: dict[str, dict[str, tuple[int, int]]] = {kind: {} for kind in KINDS}  # key -> segment, row
        self._failures: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self._tokens: dict[str, int] = {}
        self._segments: list[Path] = []
        if (self.folder / "spec.json").exists():
            require_same_spec(self._stored_spec(), spec, f"the store {self.folder}")
        self._scan()

    def known(self, kind: str) -> set[str]:
        """The keys of `kind` that have a vector."""
        return set(self._rows[kind])

    def failures(self, kind: str) -> dict[str, str]:
        """{key: reason} of what could not be embedded."""
        return dict(self._failures[kind])

    def token_counts(self, keys: Sequence[str]) -> np.ndarray:
        """(N,) int32: tokens of each text before truncation. Raises MissingVectors."""
        self._places("text", keys)
        return np.array([self._tokens[key] for key in keys], np.int32)

    def read(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(N, D) float32 vectors in the order of `keys`, repeats allowed. Raises MissingVectors, DamagedSegment."""
        places = np.array(self._places(kind, keys), np.int64).reshape(-1, 2)  # (N, 2): segment, row
        vectors = np.empty((0, 0), np.float32)
        for number in np.unique(places[:, 0]):
            rows = read_vectors(self._segments[number])
            if not vectors.size:
                vectors = np.empty((len(places), rows.shape[1]), np.float32)
            wanted = places[:, 0] == number
            vectors[wanted] = rows[places[wanted, 1]]
        return vectors

    def add(self, kind: str, segment: Segment) -> None:
        """Write one segment and its line in the manifest. Raises OSError, e.g. when the disk is full."""
        if not (self.folder / "spec.json").exists():
            write_text_atomically(self.folder / "spec.json", canonical_json(self.spec))
        path, digest = write_segment(self.folder, kind, segment)
        line = {"segment": path.name, "kind": kind, "rows": len(segment.keys), "sha256": digest}
        _append_line(self.folder / "manifest.jsonl", json.dumps(line))
        self._take(kind, path, segment.keys, segment.tokens, segment.failures)

    def forget_damaged(self) -> None:
        """Drop damaged segments' files and manifest lines, once their loss has been said aloud."""
        for name in self.damaged:
            (self.folder / name).unlink(missing_ok=True)
        kept = [json.dumps(line) for line in self._manifest() if line["segment"] not in self.damaged]
        text = "".join(f"{line}\n" for line in kept)
        write_text_atomically(self.folder / "manifest.jsonl", text)
        self.damaged = []

    def _stored_spec(self) -> Spec:
        path = self.folder / "spec.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError:
            # The folder's name is the spec's hash, so a damaged copy can be written again.
            write_text_atomically(path, canonical_json(self.spec))
            return self.spec

    def _scan(self) -> None:
        promised = {line["segment"]: line for line in self._manifest()}
        # A kill between a segment's rename and its manifest line leaves a whole file whose name holds its hash.
        unlisted = {
            p.name for p in self.folder.glob("*.h5") if _SEGMENT_NAME.fullmatch(p.name) and p.is_file()
        } - promised.keys()
        for name in [*promised, *sorted(unlisted)]:
            path = self.folder / name
            try:
                _check_digest(path, promised.get(name, {}).get("sha256"))
                self._take(name.split("-")[0], path, *read_header(path))
            except DamagedSegment:
                self.damaged.append(name)

    def _take(self, kind: str, path: Path, keys: Sequence[str], tokens: np.ndarray, failures: dict[str, str]) -> None:
        number = len(self._segments)
        self._segments.append(path)
        self._rows[kind].update({key: (number, row) for row, key in enumerate(keys)})
        if kind == "text":
            self._tokens.update(zip(keys, tokens.tolist()))
        self._failures[kind].update(failures)
        for key in keys:
            self._failures[kind].pop(key, None)  # tried again, and it went well

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

    def _manifest(self) -> Iterator[dict[str, str]]:
        path = self.folder / "manifest.jsonl"
        if not path.exists():
            return
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                entry = json.loads(line)
                if _SEGMENT_NAME.fullmatch(entry["segment"]):
                    yield entry
            except (ValueError, TypeError, KeyError):
                continue  # a killed job's last line, or a damaged one; its segment is found by its file


def _check_digest(path: Path, promised: str | None) -> None:
    if not path.is_file():
        raise DamagedSegment(f"{path}: missing")
    try:
        actual = file_digest(path)
    except OSError as error:
        raise DamagedSegment(f"{path}: cannot be read ({error.strerror})") from error
    if actual[:20] != path.stem.split("-")[1] or promised not in (None, actual):
        raise DamagedSegment(f"{path}: its bytes have changed since it was written")


def _append_line(path: Path, line: str) -> None:
    """One O_APPEND write, so that two jobs on one store interleave whole lines."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a killed job's last line
        os.write(handle, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    sync(path.parent)
