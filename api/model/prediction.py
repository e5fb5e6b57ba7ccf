"""From a meme's bytes to the answer of the HTTP contract.

Decoding and tokenising happen in a few threads, one per core; reading words off a picture goes one at a time; the model
runs in the batcher's lanes. It knows nothing of Flask: the command line prints the same answer.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TypeVar

from msgspec import UNSET, UnsetType
from torch import Tensor

from api.metrics import Metrics
from api.model.batching import Batcher, Closed, Job, Side
from api.model.classifier import MemeClassifier
from api.model.explanation import Explainer
from api.model.kept_vectors import Remembered
from api.schema import MAX_TEXT_CHARS, Explanation, Label, Model, Prediction, Probabilities, ReadText, Review
from api.settings import ServeSettings
from cache import content_key, cores, text_key
from embed.base.text import clean_text
from embed.ocr.reader import OcrFailed, OcrUnavailable

_log = logging.getLogger(__name__)
Sent = TypeVar("Sent", bytes, str)


@dataclass(frozen=True)
class Meme:
    """One meme to judge. text None or blank: the picture is read where `ocr` is true and the server can."""

    data: bytes
    text: str | None
    ocr: bool = True
    explain: bool = False


@dataclass(frozen=True)
class Reader:
    """What reads the words on a picture: (bytes) -> text, raises UnreadableImage and OcrFailed; and its name.

    load: begins to make it ready, where that takes a while; alone: held by who reads; here, since a predictor and the
    one that replaces it have the same reader.
    """

    read: Callable[[bytes], str]
    engine: str
    load: Callable[[], None] = lambda: None
    alone: Lock = field(default_factory=Lock, compare=False)


@dataclass(eq=False)
class _Asked(Job):
    """A meme on its way, and the text that it is judged with."""

    said: ReadText = field(kw_only=True)


class Predictor:
    """A classifier, warm, with its lanes and what it remembers. Whoever calls `predict` bounds how many do at once."""

    def __init__(
        self,
        classifier: MemeClassifier,
        settings: ServeSettings,
        metrics: Metrics,
        reader: Reader | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """remembered: that of another predictor with the same encoder, which this one takes over."""
        self.classifier, self.reader = classifier, reader
        self.remembered = Remembered(settings.cache, metrics) if remembered is None else remembered
        self._metrics = metrics
        self._explainer = Explainer(classifier, settings.artifacts)
        # more would take each other's cores, and 64 megapixels are 300 MB while they are decoded; the same few threads
        # each time, since malloc keeps for every thread what its largest picture took
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._batcher = Batcher(classifier, settings.batch, settings.wait_ms / 1000, self.remembered, metrics)
        try:
            self._batcher.warm_up()
        except BaseException:  # nobody would end its threads, which keep the model in memory
            self.close()
            raise

    @property
    def model(self) -> Model:
        """Name and version of the bundle."""
        return Model(self.classifier.name, self.classifier.version)

    def waiting(self) -> int:
        """Memes that wait for the model."""
        return self._batcher.waiting()

    def predict(self, meme: Meme, request_id: str) -> Prediction:
        """The answer for one meme. Raises UnreadableImage, and ModelFailure when the model failed on its batch."""
        return self.begin(meme, request_id)()

    def begin(self, meme: Meme, request_id: str) -> Callable[[], Prediction]:
        """Decode a meme and queue it for the model; what is returned waits for the answer. Raises as `predict` does,
        and Closed."""
        asked = self._batcher.submit(lambda: self._prepare(meme))
        return partial(self._finish, asked, request_id, meme.explain)

    def close(self) -> None:
        """Finish what waits for the model, and end its threads."""
        self._batcher.close()
        self._decoders.shutdown(wait=False)  # who is being decoded goes to the predictor that comes next

    def _prepare(self, meme: Meme) -> _Asked:
        image = self._image(meme.data)
        said = self._said(meme, image.key)
        return _Asked(image, self._text(said.value), said=said)

    def _image(self, data: bytes) -> Side:
        key = content_key(data)
        if (vector := self.remembered.get("image", key)) is not None:
            return Side(key, vector=vector)
        with self._metrics.stage("decode"):
            return Side(key, self._decoded(self.classifier.prepare_image, data))

    def _text(self, value: str) -> Side:
        key = text_key(value)
        if (vector := self.remembered.get("text", key)) is not None:
            return Side(key, vector=vector)
        return Side(key, self._decoded(self.classifier.prepare_text, value))

    def _decoded(self, prepare: Callable[[Sent], Tensor], sent: Sent) -> Tensor:
        try:
            future = self._decoders.submit(prepare, sent)
        except RuntimeError as error:  # it was shut down
            raise Closed("the predictor is closed") from error
        return future.result()

    def _said(self, meme: Meme, key: str) -> ReadText:
        """The text to judge, cleaned: the request's, else what the picture says."""
        sent = clean_text(meme.text or "")
        if sent:
            return ReadText(sent, "request")
        if not meme.ocr or self.reader is None:
            return ReadText("", "none")
        value: str | None = self.remembered.get("ocr", key)
        if value is None:
            try:
                value = self._read(self.reader, meme.data, key)
            except (OcrFailed, OcrUnavailable):  # the picture is judged alone, and the answer's `source` says so
                _log.exception("the words on a picture could not be read")
                self._metrics.unread.inc()
                return ReadText("", "none")
        return ReadText(value, "ocr")

    def _read(self, reader: Reader, data: bytes, key: str) -> str:
        with self._metrics.stage("ocr"), reader.alone:
            value = self.remembered.peek("ocr", key)  # it may have been read for another while this one waited
            if value is None:
                value = clean_text(reader.read(data)[:MAX_TEXT_CHARS])
                self.remembered.put("ocr", key, value)
            return value

    def _finish(self, asked: _Asked, request_id: str, explain: bool) -> Prediction:
        probability = asked.done.result()
        explanation = self._explained(asked, probability) if explain else UNSET
        answer = self._answer(probability, asked.said, request_id, explanation)
        self._metrics.predictions.labels(answer.label).inc()
        self._metrics.probabilities.observe(probability)
        return answer

    def _explained(self, job: Job, probability: float) -> Explanation:
        image, text = job.image.vector, job.text.vector
        assert image is not None and text is not None  # it is done
        with self._metrics.stage("explain"):
            return self._explainer.explain(image, text, probability, self._batcher.call)

    def _answer(
        self, probability: float, said: ReadText, request_id: str, explanation: Explanation | UnsetType
    ) -> Prediction:
        band = self.classifier.review
        probability = round(probability, 6)
        return Prediction(
            label=self._label(probability),
            probability=probability,
            probabilities=Probabilities(probability, round(1 - probability, 6)),
            threshold=self.classifier.threshold,
            text=said,
            model=self.model,
            request_id=request_id,
            review=UNSET if band is None else Review(**band),
            explanation=explanation,
        )

    def _label(self, probability: float) -> Label:
        band = self.classifier.review
        if band is not None and band["low"] <= probability < band["high"]:
            return "review"
        return "offensive" if probability >= self.classifier.threshold else "non-offensive"
