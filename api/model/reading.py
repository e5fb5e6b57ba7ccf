"""OCR that is loaded on first use or in the background, and takes what `make embed OCR=on` has read before."""

import logging
from pathlib import Path
from threading import Lock, Thread

from cache import Layout, content_key, cores
from embed.ocr.reader import OcrUnavailable, TextReader
from embed.ocr.readings import Readings
from embed.ocr.recognisers import find_recogniser

# More are hardly faster for one picture, and the model needs cores too.
_THREADS = 2

_log = logging.getLogger(__name__)


class LazyTextReader:
    """Loading takes two seconds, which would delay the start.

    engine: its name; earlier, now: how many pictures were known from an earlier run, and how many were read.
    """

    def __init__(self, artifacts: Path, language: str = "") -> None:
        """artifacts: folder of earlier results and added models; need not exist. Raises OcrUnavailable for a language
        without a model, and if OCR is not installed."""
        layout = Layout(artifacts)
        self._readings = Readings(layout.readings, find_recogniser(language, layout.ocr_models))
        self.engine = self._readings.engine
        self.earlier = self.now = 0
        self._lock = Lock()
        self._reader: TextReader | None = None

    def load_in_background(self) -> None:
        """Start loading in a thread."""
        Thread(target=self._load_alone, name="ocr", daemon=True).start()

    def read(self, data: bytes) -> str:
        """The text on an encoded image. Raises UnreadableImage, OcrFailed, and OcrUnavailable if loading fails."""
        known = self._readings.known(content_key(data))
        if known is not None:
            self.earlier += 1
            return known
        text = self._loaded().read(data)
        self.now += 1
        return text

    def _load_alone(self) -> None:
        try:
            self._loaded()
        except OcrUnavailable as error:  # raised again by `read`
            _log.error("%s", error)

    def _loaded(self) -> TextReader:
        with self._lock:
            if self._reader is None:
                self._reader = TextReader(min(_THREADS, cores()), self._readings.recogniser)
            return self._reader
