"""A segment that cannot be read now is an error that changes nothing; a damaged one is moved aside and made again."""

import builtins
import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cache.store.vector_store
from cache import MissingVectors, Segment, VectorStore, text_key
from cache.store import headers
from cache.store.compaction import compact
from cache.verify import verify

SPEC = {"model": "m"}
NAMES = ["a", "bb", "ccc"]
KEYS = [text_key(name) for name in NAMES]


def segment(*names: str) -> Segment:
    vectors = np.array([[len(name), 1, 2] for name in names], np.float32)
    return Segment([text_key(name) for name in names], vectors, np.arange(len(names), dtype=np.int32))


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    """A segment of two rows, one of one, and what they hold remembered."""
    store = VectorStore(tmp_path / "vectors", SPEC)
    with store.locked(lambda: None):
        store.add("text", segment("a", "bb"))
        store.add("text", segment("ccc"))
    return store


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def first_segment(store: VectorStore) -> Path:
    return next(iter(store.held("text")))


def refusing(monkeypatch: pytest.MonkeyPatch, refused: Path, code: int) -> None:
    """Nobody can open `refused`, whoever runs the tests."""
    real = io.open

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, Path)) and Path(file) == refused:
            raise OSError(code, os.strerror(code), str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", opening)
    monkeypatch.setattr(builtins, "open", opening)


def failing(monkeypatch: pytest.MonkeyPatch, refused: Path, code: int) -> None:
    """`refused` can be opened and not read, as on a broken disk."""
    real = io.open

    class Broken(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            raise OSError(code, os.strerror(code))

        read = readinto  # type: ignore[assignment]

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        return Broken(file) if isinstance(file, (str, Path)) and Path(file) == refused else real(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", opening)


ERRORS = pytest.mark.parametrize(
    ("broken", "code"),
    [
        *((refusing, code) for code in (errno.EMFILE, errno.EACCES, errno.ENOLCK, errno.ESTALE, errno.EIO)),
        (failing, errno.EIO),
        (failing, errno.ESTALE),
    ],
)


@ERRORS
def test_a_segment_that_cannot_be_read_is_named_and_nothing_changes(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None], code: int
) -> None:
    path, before = first_segment(store), everything(store.folder)
    with monkeypatch.context() as patch:
        broken(patch, path, code)
        with pytest.raises(OSError, match=path.name) as caught:
            VectorStore(tmp_path / "vectors", SPEC).read("text", KEYS)  # its header is remembered
        assert caught.value.errno == code
        headers.forget(store.folder)
        for attempt in (lambda: VectorStore(tmp_path / "vectors", SPEC), lambda: compact(store, lambda: None)):
            with pytest.raises(OSError, match=path.name) as caught:
                attempt()
            assert caught.value.errno == code
        (found,) = verify(tmp_path).findings
        assert f"{path}: cannot be read ({os.strerror(code)})" == found.damage and "not damage" in found.remedy
    after = everything(store.folder)
    after.pop(headers.FILE, None)
    before.pop(headers.FILE)
    assert after == before
    again = VectorStore(tmp_path / "vectors", SPEC)
    assert again.damaged == [] and again.read("text", KEYS)[:, 0].tolist() == [1, 2, 3]


def test_a_folder_that_cannot_be_listed_is_no_empty_store(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=store.folder.name):
        VectorStore(tmp_path / "vectors", SPEC)


def cut(data: bytes) -> bytes:
    return data[:-100]


def flipped(data: bytes) -> bytes:
    return data[:-300] + bytes([data[-300] ^ 1]) + data[-299:]


def emptied(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("hurt", [cut, flipped, emptied])
def test_damage_is_moved_aside_and_made_again(store: VectorStore, tmp_path: Path, hurt: Any) -> None:
    path = first_segment(store)
    damaged = hurt(path.read_bytes())
    path.write_bytes(damaged)
    again = VectorStore(tmp_path / "vectors", SPEC)
    assert again.damaged == [path.name] and again.has("text", KEYS).tolist() == [False, False, True]
    with pytest.raises(MissingVectors, match=f"2 of 3 .*{path.name}"):
        again.read("text", KEYS)
    with again.locked(lambda: None):
        again.forget_damaged()
        again.add("text", segment("a", "bb"))  # the same bytes have the same name
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    healed = VectorStore(tmp_path / "vectors", SPEC)
    assert healed.damaged == [] and healed.read("text", KEYS)[:, 0].tolist() == [1, 2, 3]
    assert not verify(tmp_path).findings


def test_damage_behind_the_stamp_is_seen_when_it_is_read(store: VectorStore, tmp_path: Path) -> None:
    """A disk loses bits without a change of times; the HDF5 file's own checksums tell."""
    path = first_segment(store)
    data, status = path.read_bytes(), path.stat()
    at = data.index(np.array([1, 1, 2], np.float32).tobytes())
    with path.open("r+b") as file:
        file.write(data[:at] + b"\xff" + data[at + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    believed = headers.remembered(store.folder)
    assert believed
    for known in believed.values():
        known.stamp[:] = cache.files.file_stamp(known.path)
    headers.remember(store.folder, list(believed.values()))
    opened = VectorStore(tmp_path / "vectors", SPEC)
    assert not opened.damaged
    assert opened.read("text", KEYS[2:]).tolist() == [[3, 1, 2]]
    with pytest.raises(MissingVectors, match=path.name):
        opened.read("text", KEYS)
    assert opened.damaged == [path.name] == VectorStore(tmp_path / "vectors", SPEC).damaged


def test_a_segment_as_it_was_written_that_hdf5_cannot_read_is_kept(store: VectorStore) -> None:
    data = b"written by somebody else"
    path = store.folder / f"text-{hashlib.sha256(data).hexdigest()[:20]}.h5"
    path.write_bytes(data)
    with pytest.raises(OSError, match=f"as they were written.*{path.name}"):
        VectorStore(store.folder.parent, SPEC)
    assert path.exists()


def hashed(monkeypatch: pytest.MonkeyPatch, store: VectorStore) -> list[str]:
    """The names of the segments that opening the store hashes."""
    names, real = [], cache.store.vector_store.check_segment
    with monkeypatch.context() as patch:
        patch.setattr(cache.store.vector_store, "check_segment", lambda path: names.append(path.name) or real(path))
        VectorStore(store.folder.parent, SPEC)
    return names


def test_only_what_changed_is_hashed_again(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashed(monkeypatch, store) == []
    path = first_segment(store)
    os.utime(path, ns=(1, 1))
    assert hashed(monkeypatch, store) == [path.name]
    with store.locked(lambda: None):
        pass
    assert hashed(monkeypatch, store) == []
    store.add("text", segment("late"))
    assert len(hashed(monkeypatch, store)) == 1
    with store.locked(lambda: None):
        assert store.has("text", [text_key("late")]).all()
    assert hashed(monkeypatch, store) == []


def test_a_lost_or_damaged_memory_is_only_slower(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store.folder / headers.FILE
    whole = file.read_bytes()
    for where in range(0, len(whole), 97):
        file.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        assert headers.remembered(store.folder) == {}
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"\x89HDF"):
        file.write_bytes(damaged)
        assert len(hashed(monkeypatch, store)) == 2
    file.unlink()
    assert len(hashed(monkeypatch, store)) == 2
    again = VectorStore(store.folder.parent, SPEC)
    assert again.read("text", KEYS)[:, 0].tolist() == [1, 2, 3] and again.token_counts(KEYS).tolist() == [0, 1, 0]


def test_readers_write_nothing(store: VectorStore) -> None:
    headers.forget(store.folder)
    before = everything(store.folder)
    VectorStore(store.folder.parent, SPEC).read("text", KEYS)
    assert everything(store.folder) == before


def test_leftovers_of_killed_runs_go_with_the_next_writer(store: VectorStore) -> None:
    name = first_segment(store).name
    left = [f".{of}.ab_cd123.tmp" for of in (name, "manifest.jsonl", headers.FILE)]
    kept = [".notes.ab_cd123.tmp", f".{name}.tmp", f"{name}.ab_cd123.tmp", ".my.h5.ab_cd123.tmp"]
    for of in (*left, *kept):
        (store.folder / of).write_bytes(b"half")
    VectorStore(store.folder.parent, SPEC)
    assert all((store.folder / of).exists() for of in (*left, *kept))
    with store.locked(lambda: None):
        pass
    assert [of for of in (*left, *kept) if (store.folder / of).exists()] == kept
