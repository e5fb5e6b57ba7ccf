"""Serve the application with waitress until SIGTERM or Ctrl-C.

The model is loaded and warm before the port opens, so a process that listens is one that answers.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask

from api.app import MAX_BODY_BYTES, create_app, problem_json
from api.classifier import MemeClassifier
from api.prediction import Predictor
from embed.encoder import choose_device
from embed.profile import DEVICES

# Bodies between our limit and this are read to their end before they are refused: most clients look for an answer only
# when they have sent everything, and would see a closed connection instead of the sentence.
_READ_AT_MOST = 3 * MAX_BODY_BYTES


@dataclass(frozen=True)
class ServeSettings:
    """Each field is a flag `--field` and an environment variable `API_FIELD`.

    model, pretrained: where the bundle's encoder is now, "" for where it was; port 0: any free one.
    Raises ValueError for what cannot be served.
    """

    bundle: Path = Path("artifacts/bundles/latest")
    model: str = ""
    pretrained: str = ""
    device: str = "auto"
    # Only this machine, until somebody decides otherwise.
    host: str = "127.0.0.1"
    port: int = 8080
    # Decoding runs in these, the model in one of its own; more threads than cores keep /healthz answering.
    threads: int = 8

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {self.device!r}")
        if not 0 <= self.port <= 65535:  # the socket would take it modulo 65536
            raise ValueError(f"port: expected 0 to 65535, got {self.port}")
        if self.threads < 1:
            raise ValueError(f"threads: expected at least 1, got {self.threads}")


def load_predictor(settings: ServeSettings) -> Predictor:
    """The bundle's classifier, warm. Raises UnusableBundle, EncoderUnavailable, SpecMismatch."""
    device = choose_device(settings.device)
    moved = {name: value for name in ("model", "pretrained") if (value := getattr(settings, name))}
    return Predictor(MemeClassifier.from_bundle(settings.bundle, device, **moved))


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Load, listen, answer. Returns on SIGTERM or Ctrl-C. Raises what `load_predictor` raises, and OSError when the
    port is taken."""
    # waitress has no handler of its own, and as a container's first process it would ignore the signal
    signal.signal(signal.SIGTERM, _stop)
    predictor = load_predictor(settings)
    sockets: dict[int, Any] = {}
    try:
        server = create_server(
            create_app(predictor),
            map=sockets,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            max_request_body_size=_READ_AT_MOST,
            # measured: twice the rate of uploads of 2 MB that the default gives
            recv_bytes=262_144,
            ident=None,
        )
    except OSError as error:
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); give another --port"
        ) from error
    listening = [socket for socket in sockets.values() if isinstance(socket, BaseWSGIServer)]
    for socket in listening:  # more than one where the host's name has several addresses
        socket.channel_class = _Channel
    model = predictor.model
    say(f"serving {model['name']} {model['version']} on http://{settings.host}:{listening[0].effective_port}")
    server.run()  # returns after SystemExit and KeyboardInterrupt


class _ProblemTask(ErrorTask):
    """waitress's own refusals (a body over its limit, a broken header) in the form that ours have."""

    def execute(self) -> None:
        error = self.request.error
        # waitress answers 501 to encodings that it does not know, but the request is what is wrong
        code, reason = (400, "Bad Request") if error.code == 501 else (error.code, error.reason)
        body = problem_json(code, reason, f"the request was refused unread: {error.body}").encode()
        self.status = f"{code} {reason}"
        self.response_headers.append(("Content-Type", "application/problem+json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    error_task_class = _ProblemTask


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
