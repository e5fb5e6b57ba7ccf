"""The state behind the application: current predictor, model card, admission, API keys; and its reload from disk."""

import hashlib
import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from api.http.admission import Admission
from api.metrics import Metrics
from api.model.batching import Closed
from api.model.loading import LoadedModel
from api.model.prediction import Meme, Predictor
from api.schema import ModelCard, Prediction
from api.settings import ServeSettings

_log = logging.getLogger(__name__)
# Shorter keys can be guessed.
_LEAST_KEY_CHARS = 16


class Service:
    """load: loads the bundle that is on disk now; its argument is the predictor to replace, None at the start."""

    def __init__(
        self, settings: ServeSettings, metrics: Metrics, load: Callable[[Predictor | None], LoadedModel]
    ) -> None:
        """Raises what `load` raises, and ValueError for an unusable file of keys."""
        self.settings, self.metrics = settings, metrics
        self.admission = Admission(settings.queue)
        metrics.set_in_progress(self.admission.in_progress)
        self.stopping = False
        self._load = load
        self._reloading = Lock()
        self._digests = _key_digests(settings.keys_file)
        self._loaded = load(None)
        self._announce()

    @property
    def predictor(self) -> Predictor:
        """The current predictor."""
        return self._loaded.predictor

    @property
    def card(self) -> ModelCard:
        """The current model card."""
        return self._loaded.card

    @property
    def requires_key(self) -> bool:
        """Whether requests must have an API key."""
        return bool(self._digests)

    def is_valid_key(self, key: str) -> bool:
        """Whether it is one of the API keys, in constant time."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0  # any() would stop early

    def begin(self, meme: Meme, request_id: str) -> Callable[[], Prediction]:
        """As `Predictor.begin`, with the current predictor."""
        while True:
            predictor = self.predictor
            try:
                return predictor.begin(meme, request_id)
            except Closed:  # replaced meanwhile
                if predictor is self.predictor:
                    raise

    def reload(self) -> bool:
        """Load bundle and keys again, while requests are answered; on any error keep the old ones and return False."""
        with self._reloading:
            old = self._loaded
            try:
                digests = _key_digests(self.settings.keys_file)
                new = self._load(old.predictor)
            except Exception as error:  # noqa: BLE001 - the old bundle stays in use
                _log.exception("reload failed, %s %s stays in use: %s", *_named(old.predictor), error)
                self.metrics.reloads.labels("refused").inc()
                return False
            self._digests, self._loaded = digests, new
            self._announce()
            self.metrics.reloads.labels("taken").inc()
            _log.info("reloaded: %s %s is in use, before it was %s %s", *_named(new.predictor), *_named(old.predictor))
            old.predictor.close()  # after the memes that wait for it
            return True

    def _announce(self) -> None:
        predictor = self._loaded.predictor
        self.metrics.set_model(*_named(predictor), predictor.waiting)
        if predictor.model.notice:
            _log.warning(predictor.model.notice)


def _named(predictor: Predictor) -> tuple[str, str]:
    return predictor.model.name, predictor.model.version


def _key_digests(keys_file: str) -> tuple[bytes, ...]:
    """SHA-256 of each key, which has a constant length. Raises ValueError that names the line."""
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
                f"keys_file: {keys_file}, line {number}: expected at least {_LEAST_KEY_CHARS} ASCII characters "
                "without spaces; `openssl rand -hex 24` makes a key"
            )
    if not keys:
        raise ValueError(f"keys_file: {keys_file} holds no key; write one per line, or leave keys_file out")
    return tuple(_digest(key) for key in keys.values())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
