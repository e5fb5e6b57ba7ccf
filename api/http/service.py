"""What the application answers with: the predictor of the moment, its card, the places for memes, the keys.

A bundle that was swapped on disk is taken over while the server answers, or refused and the old one kept.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec

from api.http.admission import Admission
from api.metrics import Metrics
from api.model.batching import Closed
from api.model.loading import LoadedModel
from api.model.prediction import Meme, Predictor
from api.schema import ModelCard, Prediction
from api.settings import ServeSettings

_log = logging.getLogger(__name__)
# Short ones can be guessed.
_LEAST_KEY_CHARS = 16


class Service:
    """load: makes the predictor of the bundle that is on disk now, given the one that it is to replace, if any."""

    def __init__(
        self, settings: ServeSettings, metrics: Metrics, load: Callable[[Predictor | None], LoadedModel]
    ) -> None:
        """Raises what `load` raises, and ValueError for a file of keys that cannot be used."""
        self.settings, self.metrics = settings, metrics
        self.admission = Admission(settings.queue)
        metrics.watch(self.admission.under_way)
        self.stopping = False
        self._load = load
        self._reloading = Lock()
        self._digests = _key_digests(settings.keys_file)
        self._loaded = load(None)
        self._announce()

    @property
    def predictor(self) -> Predictor:
        """The one that answers now."""
        return self._loaded.predictor

    @property
    def card(self) -> ModelCard:
        """What answers now, described."""
        return self._loaded.card

    @property
    def wants_key(self) -> bool:
        """Whether callers must send an API key."""
        return bool(self._digests)

    def knows_key(self, key: str) -> bool:
        """Whether it is one of the API keys; takes as long for a wrong one as for a right one."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0  # any() would stop at the first

    def begin(self, meme: Meme, request_id: str) -> Callable[[], Prediction]:
        """As `Predictor.begin`, by the predictor of the moment."""
        while True:
            predictor = self.predictor
            try:
                return predictor.begin(meme, request_id)
            except Closed:  # it was replaced after we looked
                if predictor is self.predictor:
                    raise

    def reload(self) -> bool:
        """Take over bundle and keys as they are on disk now; whether that went well. Requests are answered meanwhile."""
        with self._reloading:
            old = self._loaded
            try:
                digests = _key_digests(self.settings.keys_file)
                new = self._load(old.predictor)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one goes on
                _log.exception("reload refused, %s %s goes on answering: %s", *_named(old.predictor), error)
                self.metrics.reloads.labels("refused").inc()
                return False
            self._digests, self._loaded = digests, new
            self._announce()
            self.metrics.reloads.labels("taken").inc()
            _log.info("reloaded: %s %s answers now", *_named(new.predictor))
            old.predictor.close()  # who still waits in its lanes is answered first
            return True

    def _announce(self) -> None:
        predictor = self._loaded.predictor
        self.metrics.serving(*_named(predictor), predictor.waiting)


def _named(predictor: Predictor) -> tuple[str, str]:
    return msgspec.structs.astuple(predictor.model)


def _key_digests(keys_file: str) -> tuple[bytes, ...]:
    """The keys' hashes: comparing those leaks nothing of a key's length. Raises ValueError, naming the line."""
    if not keys_file:
        return ()
    try:
        lines = Path(keys_file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"keys_file: {keys_file} cannot be read ({error})") from error
    keys = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"}
    for number, key in keys.items():
        if len(key) < _LEAST_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"keys_file: {keys_file}, line {number}: expected at least {_LEAST_KEY_CHARS} letters, digits or signs "
                "without spaces; `openssl rand -hex 24` makes a key"
            )
    if not keys:
        raise ValueError(f"keys_file: {keys_file} holds no key; write one a line, or leave keys_file out")
    return tuple(_digest(key) for key in keys.values())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
