"""Load the model, listen, answer, until SIGTERM or Ctrl-C; take over a new bundle on SIGHUP.

The model is loaded and warm before the port opens, so a process that listens is one that answers.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Thread
from types import FrameType

from pythonjsonlogger.json import JsonFormatter

from api.http.app import create_app
from api.http.service import Loaded, Service
from api.metrics import Metrics
from api.model.card import model_card
from api.model.classifier import MemeClassifier
from api.model.explanation import training_memes
from api.model.prediction import Predictor, Reader
from api.model.reading import PictureReader
from api.schema import MAX_BODY_BYTES
from api.settings import ServeSettings
from api.transport.listener import Listener, listen
from api.transport.memory import keep_flat, settle
from embed.clip.hardware import choose_device

# Refusals, health checks and metrics find a thread also when every place is taken.
_SPARE_THREADS = 8


def load(
    settings: ServeSettings, metrics: Metrics, reader: Reader | None = None, old: Predictor | None = None
) -> Loaded:
    """The bundle's predictor, warm, and its card. What `old` has loaded is used again where it fits.

    Raises UnusableBundle, EncoderUnavailable, SpecMismatch.
    """
    folder = settings.bundle.resolve()  # `latest` may point elsewhere in the middle of this
    encoder = old.classifier.encoder if old else None
    make = partial(MemeClassifier.from_bundle, folder, choose_device(settings.device), *moved(settings), loaded=encoder)
    # in a thread that ends: torch's workers for loading end with it, and do not crowd those of the model (see batching)
    with ThreadPoolExecutor(1, "load") as loader:
        classifier = loader.submit(make).result()
    remembered = old.remembered if old and classifier.encoder is encoder else None
    card = model_card(folder, classifier, reader.engine if reader else None)
    settings = replace(settings, artifacts=training_memes(folder, settings.artifacts))
    predictor = Predictor(classifier, settings, metrics, reader, remembered)
    settle()
    return Loaded(predictor, card)


def moved(settings: ServeSettings) -> tuple[str | None, str | None]:
    """Model and pretrained, as `MemeClassifier.from_bundle` takes them: None for where the bundle's encoder was."""
    return settings.model or None, settings.pretrained or None


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Load, listen, answer. Returns on SIGTERM or Ctrl-C, when what was begun is finished.

    Raises what `load` raises, ValueError for unusable keys or hosts, and OSError when the port is taken.
    """
    keep_flat()
    _log_as_json()
    # before loading, which takes seconds: a container's first process would ignore the one, and others die of the other
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    metrics, reader = Metrics(), reader_of(settings)
    service = Service(settings, metrics, lambda old: load(settings, metrics, reader, old))
    threads = settings.queue + _SPARE_THREADS
    listener = listen(create_app(service), settings.host, settings.port, threads, MAX_BODY_BYTES)
    _handle_signals(service, listener)
    if reader:
        reader.load()
    model = service.predictor.model
    say(f"serving {model.name} {model.version} on http://{settings.host}:{listener.port}")
    listener.run()


def _handle_signals(service: Service, listener: Listener) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        service.stopping = True
        listener.stop()

    def reload(_signal: int, _frame: FrameType | None) -> None:
        # the main thread moves every byte, and must not stand still for seconds
        Thread(target=service.reload, name="reload", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)


def reader_of(settings: ServeSettings) -> Reader | None:
    """What reads the words on pictures, not loaded yet, or None where it is off. Raises OcrUnavailable."""
    if settings.ocr == "off":
        return None
    pictures = PictureReader()
    return Reader(pictures.read, pictures.engine, pictures.load_beside)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)  # at once, as `python -m api` ends


def _log_as_json() -> None:
    """One JSON object a line, on stderr."""
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
