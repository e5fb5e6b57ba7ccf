"""A fake classifier, and a service with it, for the tests of the server."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from fakes import FakeEncoder
from flask.testing import FlaskClient
from machine import PATIENCE
from torch import Tensor

from api.http.app import create_app
from api.http.service import Service
from api.metrics import Metrics
from api.model.loading import LoadedModel
from api.model.prediction import Predictor, Reader
from api.schema import Model, ModelCard
from api.settings import ServeSettings


class FakeClassifier:
    """The probability is the length of the text / 10; the picture is ignored.

    encoded: (kind, count) of each call of an encoder. Encoders wait while `may_run` is clear; each call releases `began`.
    """

    name, version, threshold = "fake", "0123", 0.4

    def __init__(self, review: dict[str, float] | None = None) -> None:
        self.review = review
        self.broken: Exception | None = None  # raised by the encoders
        self.encoder = FakeEncoder(weights=None)  # type: ignore[arg-type]
        self.config: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "encoder": {"model": "fake", "pretrained": ""},
            "data": {"index": "there is none"},
            "spec": self.encoder.spec,
        }
        self.encoded: list[tuple[str, int]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.began = threading.Semaphore(0)
        self.warmed: list[int] = []

    def prepare_image(self, data: bytes) -> Tensor:
        return self.encoder.pixels(data)

    def prepare_text(self, text: str) -> Tensor:
        return self.encoder.tokens(text)

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        return self._run("image", self.encoder.image_features, pixels)

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        return self._run("text", self.encoder.text_features, tokens)

    def probabilities(self, image: Tensor, text: Tensor) -> Tensor:
        assert len(image) == len(text)
        return (text[:, 0].double() / 10).clamp(0, 1)

    def warm_up(self, most: int = 1) -> None:
        self.warmed.append(most)

    def _run(self, kind: str, encode: Callable[[Sequence[Tensor]], Tensor], rows: Sequence[Tensor]) -> Tensor:
        self.encoded.append((kind, len(rows)))
        self.began.release()
        assert self.may_run.wait(PATIENCE)
        if self.broken:
            raise self.broken
        return encode(rows)


CARD = ModelCard(
    model=Model(FakeClassifier.name, FakeClassifier.version),
    shipped="ensemble",
    created="2024-01-01T00:00:00Z",
    labels=["non-offensive", "offensive"],
    threshold=FakeClassifier.threshold,
    threshold_aim="highest macro-f1",
    review=None,
    calibration="platt",
    judged_on="test memes",
    definition="as usual",
    metrics={},
    verdict="none",
    training_memes={},
    training_fingerprint="abc",
    encoder={},
    text_reading="none",
    intended_use=["tests"],
    limits=["none"],
)


def make_predictor(
    classifier: FakeClassifier | None = None, reader: Callable[[bytes], str] | None = None, **settings: Any
) -> Predictor:
    """A predictor with `reader` as OCR. The caller closes it (`contextlib.closing`)."""
    engine = None if reader is None else Reader(reader, "fake")
    return Predictor(classifier or FakeClassifier(), ServeSettings(**settings), Metrics(), engine)  # type: ignore[arg-type]


def make_service(
    classifier: FakeClassifier | None = None, reader: Callable[[bytes], str] | None = None, **settings: Any
) -> Service:
    """A service as `serve` makes it. The caller closes its `predictor`."""
    metrics, engine = Metrics(), None if reader is None else Reader(reader, "fake")
    chosen, model = ServeSettings(**settings), classifier or FakeClassifier()
    return Service(chosen, metrics, lambda old: LoadedModel(Predictor(model, chosen, metrics, engine), CARD))  # type: ignore[arg-type]


def make_client(service: Service) -> FlaskClient:
    """A client of the application of `service`, without sockets."""
    return create_app(service).test_client()
