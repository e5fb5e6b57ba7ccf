"""The store's lock: waiting for another process, seeing its rows, its death, Ctrl-C."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from machine import PATIENCE

from cache import Segment, VectorStore, text_key
from cache.contents import store_folders
from cache.stats import stats
from cache.store.compaction import compact
from cache.store.lock import LOCK_FILE
from cache.verify import verify

ROOT = Path(__file__).parents[3]
SPEC = {"model": "m"}
HOLD = """
import sys, time
import numpy as np
from cache import Segment, VectorStore, text_key
store = VectorStore(sys.argv[1], {"model": "m"})
with store.locked(lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
    store.add("text", Segment([text_key("theirs")], np.ones((1, 3), np.float32), np.zeros(1, np.int32)))
"""
WAIT = """
import signal, sys
from cache import VectorStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with VectorStore(sys.argv[1], {"model": "m"}).locked(lambda: print("waiting", flush=True)):
    print("got it", flush=True)
"""


def process(code: str, root: Path) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    with process(HOLD, tmp_path) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


def test_another_process_is_waited_for_and_what_it_added_is_seen(tmp_path: Path, holder: subprocess.Popen) -> None:
    store, calls = VectorStore(tmp_path, SPEC), []

    def waiting() -> None:
        calls.append(store.known("text"))
        holder.stdin.write(b"go on\n")
        holder.stdin.flush()

    with store.locked(waiting):
        assert store.known("text") == {text_key("theirs")}
    assert calls == [set()]


def test_the_lock_dies_with_its_process(tmp_path: Path, holder: subprocess.Popen) -> None:
    with VectorStore(tmp_path, SPEC).locked(holder.kill):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [LOCK_FILE]


def test_ctrl_c_ends_the_wait(tmp_path: Path, holder: subprocess.Popen) -> None:
    with process(WAIT, tmp_path) as waiter:
        assert waiter.stdout.readline() == b"waiting\n"
        time.sleep(0.2)  # time between the message and the wait
        waiter.send_signal(signal.SIGINT)
        out, err = waiter.communicate(timeout=PATIENCE)
    assert b"KeyboardInterrupt" in err and b"got it" not in out


def test_a_free_lock_calls_nobody_and_is_let_go(tmp_path: Path) -> None:
    for _ in range(2):
        with VectorStore(tmp_path, SPEC).locked(lambda: pytest.fail("nobody holds it")):
            pass
    with pytest.raises(RuntimeError), VectorStore(tmp_path, SPEC).locked(lambda: None):
        raise RuntimeError
    with VectorStore(tmp_path, SPEC).locked(lambda: pytest.fail("nobody holds it")):
        pass


def test_a_store_that_nobody_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Segment([text_key("a")], np.ones((1, 3), np.float32), np.zeros(1, np.int32))
    VectorStore(tmp_path, SPEC).add("text", rows)
    store = VectorStore(tmp_path, SPEC)
    monkeypatch.setattr("cache.store.vector_store.check_segment", lambda path: pytest.fail(f"{path} is read again"))
    with store.locked(lambda: None):
        assert store.known("text") == {text_key("a")}


def test_a_folder_that_cannot_be_made_is_named_and_only_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(b"a file in its place")
    store = VectorStore(tmp_path / "vectors", SPEC)
    with pytest.raises(OSError, match=str(store.folder)), store.locked(lambda: None):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    rows = Segment([text_key("a")], np.ones((1, 3), np.float32), np.zeros(1, np.int32))
    VectorStore(tmp_path, SPEC).add("text", rows)
    monkeypatch.setattr(fcntl, "flock", refuse)
    store = VectorStore(tmp_path, SPEC)
    with (
        pytest.raises(OSError, match=rf"\(locking\); .*nothing was written.*: '{store.folder / LOCK_FILE}'") as caught,
        store.locked(lambda: pytest.fail("nobody holds it")),
    ):
        pass
    assert caught.value.errno == code
    again = VectorStore(tmp_path, SPEC)  # HDF5 takes no locks of its own
    assert not again.damaged and (again.read("text", rows.keys) == rows.vectors).all()


def test_the_locks_file_is_no_content(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "vectors", SPEC)
    with store.locked(lambda: None):
        pass
    assert os.listdir(store.folder) == [LOCK_FILE] and store_folders(tmp_path) == []
    store.add("text", Segment([text_key("a")], np.ones((1, 3), np.float32), np.zeros(1, np.int32)))
    size = sum(path.stat().st_size for path in store.folder.glob("*.h5"))
    found = verify(tmp_path)
    assert not found.findings and (found.segments, found.bytes) == (1, size)
    (counted,) = stats(tmp_path)["stores"]
    assert (counted["segments"], counted["bytes"]) == (1, size)
    compact(store, lambda: pytest.fail("nobody else is at it"))
    assert (store.folder / LOCK_FILE).is_file() and len(store.known("text")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_cache_of_another_user_can_be_read_but_not_locked(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, SPEC)
    with store.locked(lambda: None):
        store.add("text", Segment([text_key("ours")], np.ones((1, 3), np.float32), np.zeros(1, np.int32)))
    tmp_path.chmod(0o755)
    become = "import os; os.chdir(sys.argv[1]); sys.argv[1] = '.'; os.setgroups([]); os.setuid(65534)"
    read = "print(store.read('text', [text_key('ours')]).shape, flush=True)\nwith store.locked"
    code = HOLD.replace("store = ", f"{become}\nstore = ").replace("with store.locked", read)
    with process(code, tmp_path) as other:
        out, err = other.communicate(b"go on\n", timeout=PATIENCE)
    assert out == b"(1, 3)\n" and store.folder.name.encode() in err
    assert b"PermissionError" in err and b"(locking)" in err
