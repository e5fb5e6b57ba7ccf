"""Why a meme got its probability: what each side tells by itself, and which labelled memes are most alike."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from api.classifier import MemeClassifier
from api.schema import Explanation


class Explainer:
    """Explains with the memes that the bundle was tuned on, read from the training index at the first explanation."""

    def __init__(self, classifier: MemeClassifier, artifacts: Path) -> None:
        self._classifier, self._artifacts = classifier, artifacts

    def explain(
        self, image: Tensor, text: Tensor, probability: float, call: Callable[[Callable[[], Any]], "Future[Any]"]
    ) -> Explanation:
        """image: (Di,), text: (Dt,), vectors of the meme; call: runs a function where the model may run."""
        return Explanation(None, None, probability, [], "not built yet")
