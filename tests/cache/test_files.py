"""A file or a folder is the old one or the new one, whatever happens between."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import interrupted

from cache import files
from cache.files import folder_replaced, write_bytes_atomically


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def write(folder: Path, word: str) -> None:
    """A folder with a file, and one in a folder of its own, of one word."""
    with folder_replaced(folder) as staging:
        (staging / "a").write_text(word)
        (staging / "deep").mkdir()
        (staging / "deep" / "b").write_text(word)


def held(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_whole_and_alone(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    with folder_replaced(folder) as staging:
        (staging / "a").write_text("new")
        assert not folder.exists() and staging.parent == folder.parent
    assert held(folder) == {"a": "new"} and os.listdir(folder.parent) == ["yet"]


def test_a_folder_takes_the_place_of_an_older_one_with_all_that_was_in_it(tmp_path: Path) -> None:
    write(tmp_path / "f", "old")
    (tmp_path / "f" / "more").write_text("old")
    write(tmp_path / "f", "new")
    assert held(tmp_path / "f") == {"a": "new", "deep/b": "new"} and os.listdir(tmp_path) == ["f"]


def fail_in_block(folder: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_replaced(folder) as staging:
        (staging / "a").write_text("half")
        raise error


def fail_at_rename(folder: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    write(folder, "new")


def fail_at_sync(folder: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(files, "sync", fail)
    write(folder, "new")


Failure = Callable[[Path, type[BaseException], pytest.MonkeyPatch], None]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("fail", [fail_in_block, fail_at_sync, fail_at_rename])
def test_an_error_leaves_the_older_folder_or_none_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Failure, error: type[BaseException], older: bool
) -> None:
    if older:
        write(tmp_path / "f", "old")
    with pytest.raises(error):
        fail(tmp_path / "f", error, monkeypatch)
    assert os.listdir(tmp_path) == (["f"] if older else [])
    assert not older or held(tmp_path / "f") == {"a": "old", "deep/b": "old"}


def test_everything_is_on_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = files.sync, Path.rename
    monkeypatch.setattr(files, "sync", lambda path: done.append(f"sync {path.name}") or sync(path))
    monkeypatch.setattr(Path, "rename", lambda path, to: done.append(f"rename to {to.name}") or rename(path, to))
    write(tmp_path / "f", "new")
    *synced, renamed, parent = done
    assert (renamed, parent) == ("rename to f", f"sync {tmp_path.name}")
    assert {name.removeprefix("sync ") for name in synced} > {"a", "b", "deep"} and synced[-1].endswith(".tmp")


def test_others_may_read_as_the_umask_says(tmp_path: Path) -> None:
    write(tmp_path / "f", "new")
    write_bytes_atomically(tmp_path / "file", b"new")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {modes[path] for path in modes if path.is_dir()} == {0o755}
    assert {modes[path] for path in modes if path.is_file()} == {0o644}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes_atomically(path, b"old")
    rename, calls = interrupted(Path.rename, at=1)
    monkeypatch.setattr(Path, "rename", lambda *paths: rename(*paths))
    with pytest.raises(KeyboardInterrupt):
        write_bytes_atomically(path, b"new")
    assert len(calls) == 1 and path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="file") as caught:
        write_bytes_atomically(tmp_path / "file", b"x")
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "file"))
    with pytest.raises(OSError, match="folder") as caught, folder_replaced(tmp_path / "folder"):
        full()
    assert caught.value.filename == str(tmp_path / "folder") and not list(tmp_path.iterdir())


def test_an_error_that_is_not_of_writing_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unreachable") as caught, files.naming(tmp_path):
        raise OSError(errno.EHOSTUNREACH, "unreachable")
    assert caught.value.filename is None
