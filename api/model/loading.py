"""Loads a bundle for prediction: classifier, encoder, training memes for explanations, OCR. Knows nothing of Flask.

The server and the commands `predict` and `predict-folder` use it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from api.memory import trim_memory
from api.metrics import Metrics
from api.model.card import model_card
from api.model.classifier import MemeClassifier
from api.model.explanation import training_memes
from api.model.prediction import Predictor, Reader
from api.model.reading import LazyTextReader
from api.schema import ModelCard
from api.settings import ServeSettings
from cache import chosen_model, find_bundle
from embed.clip.hardware import choose_device
from head.bundle.format import read_config


@dataclass(frozen=True)
class LoadedModel:
    """A predictor and its model card."""

    predictor: Predictor
    card: ModelCard


def load_classifier(bundle: Path = Path("artifacts/bundles/latest"), device: str = "auto") -> MemeClassifier:
    """The classifier of a bundle, for Python programs; device: "auto", "cpu" or "cuda".

    Raises UnusableBundle, EncoderUnavailable, SpecMismatch.
    """
    return MemeClassifier.from_bundle(bundle.resolve(), choose_device(device))


def load_model(
    settings: ServeSettings, metrics: Metrics, reader: Reader | None = None, old: Predictor | None = None
) -> LoadedModel:
    """Load the predictor of `settings.bundle`, warmed up, and its card.

    old: the predictor that is replaced; its encoder and embedding cache are reused if the bundle has the same spec.
    Raises NoBundle, UnusableBundle, EncoderUnavailable, SpecMismatch.
    """
    # found once, since another version may be put into use while loading
    folder = find_bundle(settings.bundle, settings.artifacts).resolve()
    encoder = old.classifier.encoder if old else None
    source = encoder_source(settings)
    make = partial(MemeClassifier.from_bundle, folder, choose_device(settings.device), *source, loaded=encoder)
    # torch's worker threads end with the thread that started them, and do not compete with those of the batcher
    with ThreadPoolExecutor(1, "load") as loader:
        classifier = loader.submit(make).result()
    embedding_cache = old.embedding_cache if old and classifier.encoder is encoder else None
    card = model_card(folder, classifier, reader.engine if reader else None)
    settings = replace(settings, artifacts=training_memes(folder, settings.artifacts))
    predictor = Predictor(classifier, settings, metrics, reader, embedding_cache)
    trim_memory()
    return LoadedModel(predictor, card)


def encoder_source(settings: ServeSettings) -> tuple[str | None, str | None]:
    """(model, pretrained) for `MemeClassifier.from_bundle`; None: as the bundle's config says."""
    return chosen_model("", settings.model) or None, settings.pretrained or None


def make_reader(settings: ServeSettings) -> Reader | None:
    """The OCR reader, not loaded yet; None if OCR is off. Raises OcrUnavailable, UnusableBundle, OSError."""
    if settings.ocr == "off":
        return None
    # as the training memes were read
    folder = find_bundle(settings.bundle, settings.artifacts)
    language = settings.ocr_lang or read_config(folder)["data"].get("ocr_lang", "")
    reader = LazyTextReader(settings.artifacts, language)
    return Reader(
        reader.read,
        reader.engine,
        reader.load_in_background,
        progress=lambda: f"{reader.now} read now, {reader.earlier} before" if reader.now + reader.earlier else "",
    )
