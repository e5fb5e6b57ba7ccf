"""The engine that reads words off pictures, loaded when it is first needed, or beside the answers to the first requests:
it takes two seconds, which no start should wait for.
"""

import logging
from threading import Lock, Thread

from cache import cores
from embed.ocr.reader import OcrUnavailable, TextReader, engine_name

# More hardly helps a single picture, and the model needs cores too.
_THREADS = 2

_log = logging.getLogger(__name__)


class PictureReader:
    """engine: its name. Raises OcrUnavailable where it is not installed."""

    def __init__(self) -> None:
        self.engine = engine_name()
        self._lock = Lock()
        self._reader: TextReader | None = None

    def load_beside(self) -> None:
        """Begin to load, in a thread of its own."""
        Thread(target=self._load_alone, name="ocr", daemon=True).start()

    def read(self, data: bytes) -> str:
        """The words on a picture. Raises UnreadableImage, OcrFailed, and OcrUnavailable when it cannot be loaded."""
        return self._loaded().read(data)

    def _load_alone(self) -> None:
        try:
            self._loaded()
        except OcrUnavailable as error:  # whoever needs it is told again
            _log.error("%s", error)

    def _loaded(self) -> TextReader:
        with self._lock:
            if self._reader is None:
                self._reader = TextReader(min(_THREADS, cores()))
            return self._reader
