"""A running server is found by its file, a stale file is recognised, and two servers do not share one."""

import os
import signal
from pathlib import Path

import pytest

from api import __main__ as command
from api.pid_file import ask_to_reload, pid_file


def test_the_process_of_the_file_gets_the_signal(tmp_path: Path) -> None:
    got, path = [], tmp_path / "pid"
    before = signal.signal(signal.SIGHUP, lambda *_: got.append(1))
    try:
        with pid_file(path):
            assert path.read_text() == f"{os.getpid()}\n"
            assert ask_to_reload(path).startswith(f"process {os.getpid()} loads the bundle that is in use")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert got == [1] and not path.exists()


def test_a_file_of_no_server_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pid"
    assert command.main(["reload", f"--pid-file={path}"]) == 2
    assert "start the server with --pid-file" in capsys.readouterr().err
    path.write_text("1\n")  # left by a kill; process 1 must not get a signal
    assert command.main(["reload", f"--pid-file={path}"]) == 2
    assert "left by a server that no longer runs" in capsys.readouterr().err


def test_two_servers_do_not_share_a_file_and_a_stale_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("123456789\n")
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(ValueError, match="belongs to a running server"), pid_file(path):
            pytest.fail("shared")
        assert path.exists()
    with pid_file(None):
        assert not path.exists()
