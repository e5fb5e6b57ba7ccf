"""Pictures kept on disk up to a bound, and read ahead in order."""

import pickle
import threading
from functools import partial
from pathlib import Path

import pytest

import embed.pictures.kept
from embed.pictures.kept import Kept, ReadAhead


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embed.pictures.kept.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_fits_is_kept_until_the_end(temporary: Path) -> None:
    kept = Kept(limit=10)
    for name, size in (("a/b.png", 6), ("large", 5), ("\udcff", 4), ("more", 1)):
        kept.put(name, bytes(size))
    assert kept.get("a/b.png") == bytes(6) and kept.get("\udcff") == bytes(4)
    assert kept.get("large") is kept.get("more") is kept.get("never") is None
    assert len(list(temporary.rglob("*"))) == 3
    del kept
    assert not list(temporary.iterdir())


def test_a_quarter_of_the_free_space_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 20

    monkeypatch.setattr(embed.pictures.kept.shutil, "disk_usage", lambda _: Usage)
    kept = Kept()
    kept.put("a", bytes(5))
    kept.put("b", b"1")
    assert kept.get("a") == bytes(5) and kept.get("b") is None


def test_a_copy_in_another_process_keeps_nothing(temporary: Path) -> None:
    kept = pickle.loads(pickle.dumps(Kept()))
    kept.put("a", b"1")
    assert kept.get("a") is None and not list(temporary.iterdir())


def test_a_full_disk_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "write_bytes", full)
    kept = Kept(limit=10)
    kept.put("a", b"1")
    assert kept.get("a") is None


def test_names_are_read_ahead_and_no_further() -> None:
    begun, go = list[str](), threading.Event()

    def read(name: str) -> bytes:
        begun.append(name)
        go.wait()
        if name == "bad":
            raise ValueError(name)
        return name.encode()

    names = ["a", "bad", *"cdefgh"]
    ahead = ReadAhead([(name, partial(read, name)) for name in names], 3)
    assert ahead.get("unknown") is None and set(begun) <= {"a", "bad", "c"}
    go.set()
    assert ahead.get("a") == b"a" and ahead.get("a") is None
    with pytest.raises(ValueError, match="bad"):
        ahead.get("bad")
    assert [ahead.get(name) for name in "cdefgh"] == [name.encode() for name in "cdefgh"]
    assert sorted(begun) == sorted(names)
    ahead.close()
