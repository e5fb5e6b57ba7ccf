"""What `bench.serve` and `bench.load` start: a bundle over random ViT-B-32, LitServe's environment, one server at a time.

A server gets a free port of 127.0.0.1, is a process group of its own, and is killed with all its children when done. It
does not know what is measured.
"""

import http.client
import os
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.environment import install
from bench.machine import ROOT, WORKSHOP, CommandFailed, python, run, say
from bench.weights import MODEL, weights_file

LITSERVE = "0.2.19"
# The newest that it runs with. python-multipart reads forms, which LitServe leaves to its users.
_PINS = (
    f"litserve=={LITSERVE}",
    "fastapi==0.165.0",
    "starlette==1.10.0",
    "uvicorn[standard]==0.54.0",
    "pyzmq==27.3.0",
    "python-multipart==0.0.34",
)
# Enough for a head of the real kind; what it says means nothing, as the encoder's weights are random.
_TRIALS = 8
_START_S, _LOOK_S = 120.0, 0.02
# Nothing here may look for a newer version or a hub.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "API_DEVICE": "cpu"}
_TAIL_CHARS = 2000


@dataclass(frozen=True)
class Server:
    """A process that answers on 127.0.0.1:port."""

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def make_bundle(data: Path, work: Path) -> Path:
    """Embed `data` by random ViT-B-32 and tune a head, as a user does, under `work`. Raises CommandFailed."""
    say(f"embedding {data} and tuning {_TRIALS} trials for a bundle (a minute)")
    source = ("--data", data, "--model", MODEL, "--pretrained", weights_file(), "--artifacts", work, "--device", "cpu")
    run(python("embed", *source))
    run(python("head", "tune", *source, "--trials", str(_TRIALS)))
    return next(path for path in (work / "bundles").iterdir() if not path.is_symlink())


def install_litserve(folder: Path = WORKSHOP / "litserve") -> Path:
    """The interpreter of LitServe's virtual environment, made if it is not there. Raises NoPeer.

    It sees the project's packages behind its own, so that torch is there once.
    """
    ours = Path(sysconfig.get_path("purelib"))
    return install(f"LitServe {LITSERVE}", folder, _PINS, ["-m", "bench.litserve_peer", "--help"], _OFFLINE, ours)


@contextmanager
def serving(command: Sequence[str | Path], ready: str) -> Iterator[Server]:
    """Start `command --port N`, wait until GET `ready` says 200, and kill all of it at the end. Raises CommandFailed."""
    port = _free_port()
    words = [*(str(word) for word in command), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **_OFFLINE}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_until_ready(process, port, ready, began)
            yield Server(process, port, round(time.perf_counter() - began, 2))
        except CommandFailed as error:
            log.seek(0)
            tail = log.read().decode("utf-8", "replace")[-_TAIL_CHARS:]
            raise CommandFailed(f"{' '.join(words)}: {error}\n{tail}") from error
        finally:
            _kill(process)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, ready: str, began: float) -> None:
    while process.poll() is None:
        try:
            if Server(process, port, 0.0).get(ready)[0] == http.client.OK:
                return
        except OSError:
            pass  # not listening yet
        if time.perf_counter() - began > _START_S:
            raise CommandFailed(f"not ready after {_START_S:.0f} s")
        time.sleep(_LOOK_S)
    raise CommandFailed(f"ended with {process.returncode}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # LitServe's own shutdown leaves children behind
    except ProcessLookupError:
        pass
    process.wait()
