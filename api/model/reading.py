"""OCR that is loaded on first use or in the background: loading takes two seconds, which would delay the start."""

import logging
from threading import Lock, Thread

from cache import cores
from embed.ocr.reader import OcrUnavailable, TextReader, engine_name

# More are hardly faster for one picture, and the model needs cores too.
_THREADS = 2

_log = logging.getLogger(__name__)


class LazyTextReader:
    """engine: its name. Raises OcrUnavailable if it is not installed."""

    def __init__(self) -> None:
        self.engine = engine_name()
        self._lock = Lock()
        self._reader: TextReader | None = None

    def load_in_background(self) -> None:
        """Start loading in a thread."""
        Thread(target=self._load_alone, name="ocr", daemon=True).start()

    def read(self, data: bytes) -> str:
        """The text on an encoded image. Raises UnreadableImage, OcrFailed, and OcrUnavailable if loading fails."""
        return self._loaded().read(data)

    def _load_alone(self) -> None:
        try:
            self._loaded()
        except OcrUnavailable as error:  # raised again by `read`
            _log.error("%s", error)

    def _loaded(self) -> TextReader:
        with self._lock:
            if self._reader is None:
                self._reader = TextReader(min(_THREADS, cores()))
            return self._reader
