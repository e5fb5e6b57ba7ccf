"""A prediction as the HTTP contract spells it, made on the one thread that runs the model.

It knows the classifier and the contract's fields; not Flask, so the command line prints the same JSON.
"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.classifier import MemeClassifier

# CLIP reads 77 tokens, some 60 words. A longer text is cut there; one far longer is a mistake or an attack,
# and one word of 5,000 letters keeps the tokenizer busy for most of a second.
MAX_TEXT_CHARS = 5_000


class Predictor:
    """Runs a classifier on one long-lived thread.

    torch keeps a pool of workers for every thread that calls it, and eight threads each calling the module alone are
    slower together than one thread.
    """

    def __init__(self, classifier: MemeClassifier) -> None:
        self.classifier = classifier
        self._thread = ThreadPoolExecutor(1, "model")
        self._thread.submit(classifier.warm_up).result()

    @property
    def model(self) -> dict[str, str]:
        """Name and version of the bundle."""
        return {"name": self.classifier.name, "version": self.classifier.version}

    def predict(self, data: bytes, text: str | None) -> dict[str, Any]:
        """The JSON answer for one meme. Raises UnreadableImage."""
        pixels, tokens = self.classifier.prepare(data, text or "")
        probability = float(self._thread.submit(self.classifier, [pixels], [tokens]).result()[0])
        return self._answer(probability, text)

    def _answer(self, probability: float, text: str | None) -> dict[str, Any]:
        band = self.classifier.review
        return {
            "label": self._label(probability),
            "probability": round(probability, 6),
            "probabilities": {"offensive": round(probability, 6), "non-offensive": round(1 - probability, 6)},
            "threshold": self.classifier.threshold,
            **({} if band is None else {"review": band}),
            "text": {"value": text or "", "source": "request" if text and text.strip() else "none"},
            "model": self.model,
            "request_id": uuid.uuid4().hex,
        }

    def _label(self, probability: float) -> str:
        band = self.classifier.review
        if band is not None and band["low"] <= probability < band["high"]:
            return "review"
        return "offensive" if probability >= self.classifier.threshold else "non-offensive"
