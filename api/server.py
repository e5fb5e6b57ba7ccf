"""Loads the model, listens and answers until SIGTERM or Ctrl-C; SIGHUP loads the bundle again.

The model is loaded and warmed up before the port opens, so a process that listens can answer.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import FrameType

from pythonjsonlogger.json import JsonFormatter

from api.http.app import create_app
from api.http.service import Service
from api.memory import configure_malloc
from api.metrics import Metrics
from api.model.loading import load_model, make_reader
from api.pid_file import pid_file
from api.schema import MAX_BODY_BYTES
from api.settings import ServeSettings
from api.transport.listener import Listener, host_and_port, listen

# Threads beyond one per admitted meme, for health checks, metrics and refusals under full load.
_SPARE_THREADS = 8


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Load the model and answer requests. Returns on SIGTERM or Ctrl-C, after the requests in progress.

    Raises what `load_model` raises, ValueError for unusable keys or hosts, and OSError when the port is taken.
    """
    configure_malloc()
    _log_as_json()
    # before the seconds of loading: by default PID 1 of a container ignores SIGTERM, and SIGHUP ends the process
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    metrics, reader = Metrics(), make_reader(settings)
    service = Service(settings, metrics, lambda old: load_model(settings, metrics, reader, old))
    threads = settings.queue + _SPARE_THREADS
    listener = listen(create_app(service), settings.host, settings.port, threads, MAX_BODY_BYTES)
    _handle_signals(service, listener)
    if reader:
        reader.load()
    model = service.predictor.model
    with pid_file(Path(settings.pid_file) if settings.pid_file else None):
        say(f"serving {model.name} {model.version} on http://{host_and_port(settings.host, listener.port)}")
        listener.run()


def _handle_signals(service: Service, listener: Listener) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        service.stopping = True
        listener.stop()

    def reload(_signal: int, _frame: FrameType | None) -> None:
        # not in the main thread, which does the I/O of every connection
        Thread(target=service.reload, name="reload", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)  # without the interpreter's shutdown, as in `api.__main__`


def _log_as_json() -> None:
    """One JSON object per line, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("api").setLevel(logging.INFO)
    logging.captureWarnings(True)  # Pillow's, of odd metadata
