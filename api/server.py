"""Serve the application with waitress until SIGTERM or Ctrl-C.

The model is loaded and warm before the port opens, so a process that listens is one that answers.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from waitress import create_server

from api.app import MAX_BODY_BYTES, create_app
from api.classifier import MemeClassifier
from api.prediction import Predictor
from embed.encoder import choose_device


@dataclass(frozen=True)
class ServeSettings:
    """Each field is a flag `--field` and an environment variable `API_FIELD`.

    model, pretrained: where the bundle's encoder is now, "" for where it was; port 0: any free one.
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


def load_predictor(settings: ServeSettings) -> Predictor:
    """The bundle's classifier, warm. Raises UnusableBundle, EncoderUnavailable, SpecMismatch."""
    device = choose_device(settings.device)
    moved = {name: value for name in ("model", "pretrained") if (value := getattr(settings, name))}
    return Predictor(MemeClassifier.from_bundle(settings.bundle, device, **moved))


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Load, listen, answer. Returns on SIGTERM or Ctrl-C. Raises OSError when the port is taken."""
    predictor = load_predictor(settings)
    server = create_server(
        create_app(predictor),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        # a little above Flask's own limit, so that the refusal is ours
        max_request_body_size=MAX_BODY_BYTES + 1_000_000,
        # doubled the rate of uploads of 2 MB
        recv_bytes=262_144,
        ident=None,
    )
    signal.signal(signal.SIGTERM, _stop)
    model = predictor.model
    say(f"serving {model['name']} {model['version']} on http://{settings.host}:{server.effective_port}")
    server.run()  # returns after SystemExit and KeyboardInterrupt


def _stop(_signal: int, _frame: FrameType | None) -> None:
    # waitress has no handler of its own, and as a container's first process it would ignore the signal
    raise SystemExit(0)
