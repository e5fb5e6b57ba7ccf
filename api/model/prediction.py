"""From a meme's bytes to the response: decode, tokenize, OCR, encode, classify. Knows nothing of Flask.

Decoding and tokenizing run in a pool of one thread per core, OCR one picture at a time, the model in the batcher.
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
from api.model.batching import Batcher, Closed, EncoderInput, Job
from api.model.card import served_model
from api.model.classifier import MemeClassifier
from api.model.embedding_cache import EmbeddingCache
from api.model.explanation import Explainer
from api.schema import MAX_TEXT_CHARS, Explanation, Label, Model, Prediction, Probabilities, ReadText, Review
from api.settings import ServeSettings
from cache import content_key, cores, text_key
from embed.base.text import clean_text
from embed.ocr.reader import OcrFailed, OcrUnavailable
from head.bundle.format import answer_of

_log = logging.getLogger(__name__)
Input = TypeVar("Input", bytes, str)


@dataclass(frozen=True)
class Meme:
    """One meme. data: the encoded image; text: None or blank: by OCR, if `ocr` is true and the server has it."""

    data: bytes
    text: str | None
    ocr: bool = True
    explain: bool = False


@dataclass(frozen=True)
class Reader:
    """OCR. read: (image bytes) -> text, raises UnreadableImage and OcrFailed; engine: its name.

    load: starts loading in the background; progress: how many pictures were read, in words; lock: held while reading,
    shared by a predictor and its replacement.
    """

    read: Callable[[bytes], str]
    engine: str
    load: Callable[[], None] = lambda: None
    progress: Callable[[], str] = lambda: ""
    lock: Lock = field(default_factory=Lock, compare=False)


@dataclass(eq=False)
class _PredictionJob(Job):
    read_text: ReadText = field(kw_only=True)


class Predictor:
    """A classifier, warmed up, with its batcher and embedding cache. The caller limits the memes in progress."""

    def __init__(
        self,
        classifier: MemeClassifier,
        settings: ServeSettings,
        metrics: Metrics,
        reader: Reader | None = None,
        embedding_cache: EmbeddingCache | None = None,
    ) -> None:
        """embedding_cache: of another predictor with the same encoder; None for a new one."""
        self.classifier, self.reader = classifier, reader
        self._model = served_model(classifier)
        self.embedding_cache = EmbeddingCache(settings.cache, metrics) if embedding_cache is None else embedding_cache
        self._metrics = metrics
        self._explainer = Explainer(classifier, settings.artifacts)
        # one thread per core: decoding 64 megapixels takes 300 MB; a fixed pool, since malloc keeps the largest
        # allocation of each thread
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._batcher = Batcher(classifier, settings.batch, settings.wait_ms / 1000, self.embedding_cache, metrics)
        try:
            self._batcher.warm_up()
        except BaseException:  # or its threads would keep the model in memory
            self.close()
            raise

    @property
    def model(self) -> Model:
        """Name and version of the bundle, and its notice."""
        return self._model

    def waiting(self) -> int:
        """Memes that wait for the model."""
        return self._batcher.waiting()

    def predict(self, meme: Meme, request_id: str) -> Prediction:
        """The response to one meme. Raises UnreadableImage, Closed, and ModelFailure if the model failed on its batch."""
        return self.begin(meme, request_id)()

    def begin(self, meme: Meme, request_id: str) -> Callable[[], Prediction]:
        """Decode a meme and queue it for the model. Returns a function that waits for the response and returns it.

        Raises UnreadableImage, Closed; the function raises ModelFailure.
        """
        job = self._batcher.submit(lambda: self._prepare(meme))
        return partial(self._finish, job, request_id, meme.explain)

    def close(self) -> None:
        """Finish the memes that wait for the model, and end the threads."""
        self._batcher.close()
        self._decoders.shutdown(wait=False)  # memes that are being decoded get Closed and go to the next predictor

    def _prepare(self, meme: Meme) -> _PredictionJob:
        image = self._image(meme.data)
        text = self._read_text(meme, image.key)
        return _PredictionJob(image, self._text(text.value), read_text=text)

    def _image(self, data: bytes) -> EncoderInput:
        key = content_key(data)
        if (vector := self.embedding_cache.get("image", key)) is not None:
            return EncoderInput(key, vector=vector)
        with self._metrics.stage("decode"):
            return EncoderInput(key, self._decoded(self.classifier.prepare_image, data))

    def _text(self, value: str) -> EncoderInput:
        key = text_key(value)
        if (vector := self.embedding_cache.get("text", key)) is not None:
            return EncoderInput(key, vector=vector)
        return EncoderInput(key, self._decoded(self.classifier.prepare_text, value))

    def _decoded(self, prepare: Callable[[Input], Tensor], value: Input) -> Tensor:
        try:
            future = self._decoders.submit(prepare, value)
        except RuntimeError as error:  # the pool was shut down
            raise Closed("the predictor is closed") from error
        return future.result()

    def _read_text(self, meme: Meme, key: str) -> ReadText:
        """The text of a meme, cleaned: from the request, else by OCR. key: of the picture."""
        sent = clean_text(meme.text or "")
        if sent:
            return ReadText(sent, "request")
        if not meme.ocr or self.reader is None:
            return ReadText("", "none")
        value: str | None = self.embedding_cache.get("ocr", key)
        if value is None:
            try:
                value = self._ocr(self.reader, meme.data, key)
            except (OcrFailed, OcrUnavailable):  # classified by the picture only; `text.source` is "none"
                _log.exception("OCR failed on a picture")
                self._metrics.ocr_failures.inc()
                return ReadText("", "none")
        return ReadText(value, "ocr")

    def _ocr(self, reader: Reader, data: bytes, key: str) -> str:
        with self._metrics.stage("ocr"), reader.lock:
            value = self.embedding_cache.peek("ocr", key)  # it may have been read for another request meanwhile
            if value is None:
                value = clean_text(reader.read(data)[:MAX_TEXT_CHARS])
                self.embedding_cache.put("ocr", key, value)
            return value

    def _finish(self, job: _PredictionJob, request_id: str, explain: bool) -> Prediction:
        probability = job.done.result()
        explanation = self._explain(job, probability) if explain else UNSET
        prediction = self._response(probability, job.read_text, request_id, explanation)
        self._metrics.predictions.labels(prediction.label).inc()
        self._metrics.probabilities.observe(probability)
        return prediction

    def _explain(self, job: Job, probability: float) -> Explanation:
        image, text = job.image.vector, job.text.vector
        assert image is not None and text is not None  # set by the batcher
        with self._metrics.stage("explain"):
            return self._explainer.explain(image, text, probability, self._batcher.call)

    def _response(
        self, probability: float, text: ReadText, request_id: str, explanation: Explanation | UnsetType
    ) -> Prediction:
        band = self.classifier.review
        probability = round(probability, 6)
        return Prediction(
            label=self._label(probability),
            probability=probability,
            probabilities=Probabilities(probability, round(1 - probability, 6)),
            threshold=self.classifier.threshold,
            text=text,
            model=self.model,
            request_id=request_id,
            review=UNSET if band is None else Review(**band),
            explanation=explanation,
        )

    def _label(self, probability: float) -> Label:
        return answer_of(probability, self.classifier.threshold, self.classifier.review)
