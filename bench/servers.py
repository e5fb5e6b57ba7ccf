"""Start servers for `bench.serve` and `bench.load`; make their bundle and LitServe's environment.

A server gets a free port on 127.0.0.1, runs in its own process group, and is killed with all its children at the end.
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
from bench.machine import BENCH_FOLDER, ROOT, CommandFailed, python, run, say
from bench.weights import MODEL, weights_file
from cache import LATEST, followed

LITSERVE = "0.2.19"
# The newest versions that it runs with. LitServe needs python-multipart for forms and does not require it.
_PINS = (
    f"litserve=={LITSERVE}",
    "fastapi==0.165.0",
    "starlette==1.10.0",
    "uvicorn[standard]==0.54.0",
    "pyzmq==27.3.0",
    "python-multipart==0.0.34",
)
# Enough for a head of a realistic size; its predictions are meaningless, as the encoder has random weights.
_TRIALS = 8
_START_S, _LOOK_S = 120.0, 0.02
# No requests to hubs.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "API_DEVICE": "cpu"}
_TAIL_CHARS = 2000


@dataclass(frozen=True)
class Server:
    """A process that answers on 127.0.0.1:port."""

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of GET `path`. Raises OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def make_bundle(data: Path, work: Path) -> Path:
    """Embed `data` with random ViT-B-32 and tune a head under `work`; the bundle's folder. Raises CommandFailed."""
    say(f"embedding {data} and tuning {_TRIALS} trials for a bundle (a minute)")
    source = ("--data", data, "--model", MODEL, "--pretrained", weights_file(), "--artifacts", work, "--device", "cpu")
    run(python("embed", *source))
    run(python("head", "tune", *source, "--trials", str(_TRIALS)))
    return followed(work / "bundles" / LATEST)


def install_litserve(folder: Path = BENCH_FOLDER / "litserve") -> Path:
    """The interpreter of LitServe's virtual environment, created if needed. Raises PeerUnavailable.

    It searches the project's packages after its own, so that torch is installed once.
    """
    ours = Path(sysconfig.get_path("purelib"))
    return install(f"LitServe {LITSERVE}", folder, _PINS, ["-m", "bench.litserve_peer", "--help"], _OFFLINE, ours)


@contextmanager
def serving(command: Sequence[str | Path], ready: str) -> Iterator[Server]:
    """Start `command --port N`, wait until GET `ready` returns 200, kill it at the end. Raises CommandFailed."""
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
    raise CommandFailed(f"exit code {process.returncode}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # LitServe's own shutdown leaves children behind
    except ProcessLookupError:
        pass
    process.wait()
