"""Why a meme got its probability: what each side tells by itself, and which labelled memes are most alike.

An explanation never costs the answer: what is not at hand is left out, with a sentence that names no place on this
machine. It knows nothing of HTTP, nor of pictures and texts: vectors in, figures out.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from torch import Tensor

from api.model.classifier import MemeClassifier
from api.schema import Explanation, Neighbour
from cache import DatasetIndex, SpecMismatch, UnusableIndex, VectorStore, read_index, require_same_spec
from head.bundle.format import LABELS
from head.data.features import fingerprint, load_everything, usable_rows
from head.data.similar import Similar

_log = logging.getLogger(__name__)
NEIGHBOURS = 5
# Memes that one side is averaged over: the mean's standard error is below 0.045 whatever the probabilities are, and an
# ensemble of wide cross heads takes 0.1 s for them, where others take a few milliseconds.
_SAMPLE = 128
# 100,000 memes are read in less. Whoever waits holds one of the server's places.
_PATIENCE_SECONDS = 10.0

# Where an exported bundle has the memes that it was tuned on, laid out as the folder of results is.
TRAINING = "training"

_READING = "The training memes are still being read; ask again in a minute."
_FAILED = "The explanation failed; the server's log says more."
_CHANGED = (
    "The training index has changed since this model was tuned; the comparison is with the memes as they are now."
)
_UNTOLD = (
    "The training memes have changed since this model was tuned, and those set aside as its test cannot be told from "
    "them any more."
)
_NOTES = {
    UnusableIndex: "The index of the training memes is not at hand, so there is nothing to compare with.",
    SpecMismatch: "The training memes' vectors are now those of another encoder, so there is nothing to compare with.",
}
_UNREADABLE = "The training memes cannot be read; the server's log says why."


@dataclass(frozen=True, eq=False)
class _Memes:
    """What the bundle was tuned on. ids: (N,) str; label: (N,) int64; image: (N, Di), text: (N, Dt) float32."""

    ids: np.ndarray
    label: np.ndarray
    image: np.ndarray
    text: np.ndarray
    note: str = ""


class UntoldMemes(ValueError):
    """Which memes were tuned on cannot be told."""


class Explainer:
    """Explains with the memes that the bundle was tuned on, never with test memes.

    They are read from the training index at the first explanation, in a thread of their own, and kept: 4 bytes a number.
    """

    def __init__(self, classifier: MemeClassifier, artifacts: Path) -> None:
        self._classifier, self._artifacts = classifier, artifacts
        self._lock = Lock()
        self._known: Future[_Known | str] | None = None  # or why not, in a sentence

    def explain(
        self, image: Tensor, text: Tensor, probability: float, call: Callable[[Callable[[], Any]], "Future[Any]"]
    ) -> Explanation:
        """image: (Di,), text: (Dt,), vectors of the meme; call: runs a function where the model may run. Never raises.

        What one side tells alone is the mean probability over a fixed sample of the other side's vectors: the
        interventional expectation of Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (2017), with
        two features. A head that looks at one side only has the same mean for every meme on the other. An empty text has
        a vector as any, and memes without text are alike in it.
        """
        both = round(probability, 6)
        try:
            known = self._loading().result(_PATIENCE_SECONDS)
        except TimeoutError:
            known = _READING
        if isinstance(known, str):
            return Explanation(None, None, both, [], known)
        try:
            alone: tuple[float, float] = call(lambda: known.alone(self._classifier, image, text)).result()
            # here, not in the lane: it takes memory's time, and other memes can be judged meanwhile
            near = known.nearest(image, text)
        except Exception:  # noqa: BLE001 - a model that fails, or lanes that are closed because a new bundle has come
            _log.exception("an explanation failed")
            return Explanation(None, None, both, [], _FAILED)
        return Explanation(*alone, both, near, known.note or UNSET)

    def _loading(self) -> "Future[_Known | str]":
        with self._lock:
            if self._known is None:
                self._known = Future()
                Thread(target=self._load, args=(self._known,), name="training memes", daemon=True).start()
            return self._known

    def _load(self, known: "Future[_Known | str]") -> None:
        try:
            known.set_result(_Known(_read(self._classifier.config, self._artifacts), self._classifier.config["seed"]))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for it again and again
            _log.warning("no explanations until the next reload: %s: %r", self._artifacts, error)
            known.set_result(_note(error))


class _Known:
    """The memes that were tuned on, made ready."""

    def __init__(self, memes: _Memes, seed: int) -> None:
        self.note = memes.note
        self._ids, self._label = memes.ids, memes.label
        drawn = np.random.default_rng(seed).permutation(len(memes.ids))[:_SAMPLE]
        self._images, self._texts = (torch.from_numpy(side[drawn]) for side in (memes.image, memes.text))
        self._similar = Similar(memes.image, memes.text)

    def alone(self, classifier: MemeClassifier, image: Tensor, text: Tensor) -> tuple[float, float]:
        """What the picture tells alone, and the text."""
        count = len(self._images)
        images = torch.cat([image.expand(count, -1), self._images.to(image)])
        texts = torch.cat([self._texts.to(text), text.expand(count, -1)])
        of_image, of_text = classifier.judge(images, texts).split(count)
        return round(of_image.mean().item(), 6), round(of_text.mean().item(), 6)

    def nearest(self, image: Tensor, text: Tensor) -> list[Neighbour]:
        """The most alike first."""
        near = self._similar.nearest(image.cpu().numpy(), text.cpu().numpy(), NEIGHBOURS)
        similarities = (near.similarity, near.image, near.text)
        return [
            Neighbour(
                str(self._ids[row]), LABELS[self._label[row]], *(round(float(side[place]), 4) for side in similarities)
            )
            for place, row in enumerate(near.rows)
        ]


def training_memes(bundle: Path, artifacts: Path) -> Path:
    """The folder with the training index and its vectors: in the bundle, where it has been exported, or `artifacts`."""
    exported = bundle / TRAINING
    return exported if exported.is_dir() else artifacts


def tuned_on(config: dict[str, Any], artifacts: Path) -> tuple[DatasetIndex, np.ndarray]:
    """The training index, and (N,) its rows that the bundle was tuned on, in their order.

    Raises UnusableIndex, SpecMismatch, MissingVectors, DamagedSegment, UntoldMemes; KeyError for a config without data.
    """
    path = artifacts / "datasets" / config["data"]["index"]
    index = read_index(path)
    require_same_spec(config["spec"], index.spec, f"the bundle and the index {path}")
    rows = usable_rows(index)
    if {"validation", "test"} & set(index.splits):
        return index, rows[np.array(index.splits)[rows] != "test"]
    # What was set aside as test depends on which memes are copies of which. To find that takes seconds for 10,000 memes
    # and a minute or two for 100,000, and shows whether they are still the memes that were tuned on.
    memes = load_everything(index, artifacts / "vectors", config["protocol"]["name"] == "official", config["seed"])
    if fingerprint(memes.only("train", "validation"), index.spec) != config["data"]["fingerprint"]:
        raise UntoldMemes(f"{path}: not the memes that the bundle was tuned on; run `make tune` again")
    return index, rows[memes.split != "test"]


def _read(config: dict[str, Any], artifacts: Path) -> _Memes:
    """Raises what `tuned_on` raises."""
    index, rows = tuned_on(config, artifacts)
    if not len(rows):
        raise ValueError("the index holds no meme that could have been tuned on")
    label = np.array(index.labels, np.int64)[rows]
    store = VectorStore(artifacts / "vectors", index.spec)
    image, text = (
        store.read(side, [keys[row] for row in rows])
        for side, keys in (("image", index.image_keys), ("text", index.text_keys))
    )
    # the fingerprint would need the copies; a data set that has changed has as a rule other numbers of memes
    tuned = {name: sum(split[name] for split in config["data"]["counts"].values()) for name in LABELS}
    now = dict(zip(LABELS, np.bincount(label, minlength=2).tolist()))
    return _Memes(np.array(index.ids)[rows], label, image, text, "" if now == tuned else _CHANGED)


def _note(error: Exception) -> str:
    if isinstance(error, UntoldMemes):
        return _UNTOLD
    return next((note for kind, note in _NOTES.items() if isinstance(error, kind)), _UNREADABLE)
