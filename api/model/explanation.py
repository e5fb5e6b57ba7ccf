"""Explanations: the probability by each side alone, and the most similar training memes.

A failure does not fail the prediction: what is missing is left out, with a note that holds no path of this machine.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from torch import Tensor

from api.model.classifier import MemeClassifier
from api.schema import Explanation, Neighbour
from cache import DatasetIndex, Layout, SpecMismatch, UnusableIndex, VectorStore, read_index, require_same_spec
from embed.clip.options import older_spec
from head.bundle.format import LABELS
from head.data.features import fingerprint, load_everything, usable_rows
from head.data.similar import Similar

_log = logging.getLogger(__name__)
NEIGHBOURS = 5
# Memes that one side is averaged over: the standard error of the mean is below 0.045, and the slowest ensemble takes
# 0.1 s.
_SAMPLE = 128
# Reading 100,000 memes takes less. A waiting request counts as in progress.
_PATIENCE_SECONDS = 10.0

# Folder of the training index and vectors in an exported bundle, with the layout of the artifacts folder.
TRAINING = "training"

_READING = "The training memes are still being loaded; ask again in a minute."
_FAILED = "The explanation failed; the server's log says more."
_CHANGED = (
    "The training index has changed since this model was tuned; the comparison is with the memes as they are now."
)
_TEST_UNKNOWN = (
    "The training memes have changed since this model was tuned, and its test memes can no longer be told from the "
    "others."
)
_NOTES = {
    UnusableIndex: "The index of the training memes is missing or damaged, so there is nothing to compare with.",
    SpecMismatch: "The training memes' vectors are of another encoder, so there is nothing to compare with.",
}
_UNREADABLE = "The training memes cannot be read; the server's log says why."


class TrainingMemesChanged(ValueError):
    """The data set has changed since tuning, so its test split cannot be found again."""


class Explainer:
    """Explains with the memes that the bundle was tuned on, never with test memes.

    Their embeddings (float32) are loaded from the training index in a thread at the first explanation, and kept.
    """

    def __init__(self, classifier: MemeClassifier, artifacts: Path) -> None:
        self._classifier, self._artifacts = classifier, artifacts
        self._lock = Lock()
        self._training: Future[_TrainingMemes | str] | None = None  # or a note on why it is missing

    def explain(
        self, image: Tensor, text: Tensor, probability: float, call: Callable[[Callable[[], Any]], "Future[Any]"]
    ) -> Explanation:
        """image: (Di,), text: (Dt,) float32, embeddings of the meme; call: `Batcher.call`. Never raises.

        The probability by one side alone is the mean over a fixed sample of the other side's embeddings: the
        interventional expectation of Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (2017), with
        two features. An empty text has an embedding like any other.
        """
        both = round(probability, 6)
        try:
            training = self._loading().result(_PATIENCE_SECONDS)
        except TimeoutError:
            training = _READING
        if isinstance(training, str):
            return Explanation(None, None, both, [], training)
        try:
            alone: tuple[float, float] = call(lambda: training.alone(self._classifier, image, text)).result()
            # in this thread: it does not use the model
            near = training.nearest(image, text)
        except Exception:  # noqa: BLE001 - the model failed
            _log.exception("an explanation failed")
            return Explanation(None, None, both, [], _FAILED)
        return Explanation(*alone, both, near, training.note or UNSET)

    def _loading(self) -> "Future[_TrainingMemes | str]":
        with self._lock:
            if self._training is None:
                self._training = Future()
                Thread(target=self._load, args=(self._training,), name="training memes", daemon=True).start()
            return self._training

    def _load(self, training: "Future[_TrainingMemes | str]") -> None:
        try:
            training.set_result(_read(self._classifier.config, self._artifacts))
        except Exception as error:  # noqa: BLE001 - the future must resolve, or every explanation would wait
            _log.warning("no explanations until the next reload: %s: %r", self._artifacts, error)
            training.set_result(_note(error))


class _TrainingMemes:
    """The embeddings of the memes that were tuned on, and their nearest-neighbour search."""

    def __init__(self, ids: np.ndarray, label: np.ndarray, image: np.ndarray, text: np.ndarray, seed: int) -> None:
        """ids: (N,) str; label: (N,) int64; image: (N, Di), text: (N, Dt) float32; seed: of the sample."""
        self.note = ""
        self._ids, self._label = ids, label
        drawn = np.random.default_rng(seed).permutation(len(ids))[:_SAMPLE]
        self._images, self._texts = torch.from_numpy(image[drawn]), torch.from_numpy(text[drawn])
        self._similar = Similar(image, text)

    def alone(self, classifier: MemeClassifier, image: Tensor, text: Tensor) -> tuple[float, float]:
        """The probability by the picture alone, and by the text alone. image: (Di,), text: (Dt,) float32."""
        count = len(self._images)
        images = torch.cat([image.expand(count, -1), self._images.to(image)])
        texts = torch.cat([self._texts.to(text), text.expand(count, -1)])
        of_image, of_text = classifier.probabilities(images, texts).split(count)
        return round(of_image.mean().item(), 6), round(of_text.mean().item(), 6)

    def nearest(self, image: Tensor, text: Tensor) -> list[Neighbour]:
        """The NEIGHBOURS most similar memes, the most similar first."""
        near = self._similar.nearest(image.cpu().numpy(), text.cpu().numpy(), NEIGHBOURS)
        similarities = (near.similarity, near.image, near.text)
        return [
            Neighbour(
                str(self._ids[row]), LABELS[self._label[row]], *(round(float(side[place]), 4) for side in similarities)
            )
            for place, row in enumerate(near.rows)
        ]


def training_memes(bundle: Path, artifacts: Path) -> Path:
    """The folder of the training index and its vectors: of an exported bundle its own, else `artifacts`."""
    exported = bundle / TRAINING
    return exported if exported.is_dir() else artifacts


def training_rows(config: dict[str, Any], artifacts: Path) -> tuple[DatasetIndex, np.ndarray]:
    """The training index, and the (N,) rows of it that the bundle was tuned on, rising.

    Raises UnusableIndex, SpecMismatch, MissingVectors, DamagedSegment, TrainingMemesChanged, and KeyError for a
    config without data.
    """
    path = Layout(artifacts).datasets / config["data"]["index"]
    index = read_index(path)
    if older_spec(index.spec) == config["spec"]:
        # embedded again since: the older vectors are still in their own store
        index = replace(index, spec=config["spec"])
    require_same_spec(config["spec"], index.spec, f"the bundle and the index {path}")
    rows = usable_rows(index)
    if {"validation", "test"} & set(index.splits):
        return index, rows[np.array(index.splits)[rows] != "test"]
    # The test split depends on the groups of near-duplicates. Finding them takes seconds for 10,000 memes, a minute or
    # two for 100,000.
    memes = load_everything(index, Layout(artifacts).vectors, config["protocol"]["name"] == "official", config["seed"])
    if fingerprint(memes.only("train", "validation"), index.spec) != config["data"]["fingerprint"]:
        raise TrainingMemesChanged(f"{path}: not the memes that the bundle was tuned on; run `make tune` again")
    return index, rows[memes.split != "test"]


def _read(config: dict[str, Any], artifacts: Path) -> _TrainingMemes:
    """Raises what `training_rows` raises, and ValueError for no memes."""
    index, rows = training_rows(config, artifacts)
    if not len(rows):
        raise ValueError("the index holds no memes to tune on")
    label = np.array(index.labels, np.int64)[rows]
    store = VectorStore(Layout(artifacts).vectors, index.spec)
    image, text = (
        store.read(side, [keys[row] for row in rows])
        for side, keys in (("image", index.image_keys), ("text", index.text_keys))
    )
    # compares the counts: the fingerprint would need the groups of near-duplicates
    tuned = {name: sum(split[name] for split in config["data"]["counts"].values()) for name in LABELS}
    now = dict(zip(LABELS, np.bincount(label, minlength=2).tolist()))
    memes = _TrainingMemes(np.array(index.ids)[rows], label, image, text, config["seed"])
    memes.note = "" if now == tuned else _CHANGED
    return memes


def _note(error: Exception) -> str:
    if isinstance(error, TrainingMemesChanged):
        return _TEST_UNKNOWN
    return next((note for kind, note in _NOTES.items() if isinstance(error, kind)), _UNREADABLE)
