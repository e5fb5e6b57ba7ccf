"""Evaluation of a bundle's methods: metrics, subgroups, mistakes, with thresholds and calibrations as they are.

`head tune` evaluates cross-fitted probabilities of the memes tuned on; `python -m report` evaluates on test, once.
"""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import DatasetIndex, Layout, read_index
from head.bundle.findings import drift, label_errors, slices
from head.bundle.format import Bundle, UnusableBundle, load_bundle, read_part, read_predictions, write_part
from head.bundle.learning import learning_curve
from head.bundle.readings import note_reading
from head.candidates.data import CandidateData
from head.candidates.table import fit_candidates
from head.data.features import Features, fingerprint, load_everything, load_tuning, prompt_vectors, usable_rows
from head.data.folds import Protocol, assign_folds, members, parts
from head.data.similar import Similar
from head.fitting import SINGLE
from head.judge.calibration import Calibration
from head.judge.delong import auroc_difference
from head.judge.metrics import DEFINITION, auroc_estimate, measure, share
from head.judge.threshold import measure_band
from head.model.fusion import FusionHead

MISTAKES, NEIGHBOURS = 12, 3
# Methods of a fine-tuned bundle: what it ships, and the refitted head on the frozen encoder.
FINETUNED, FROZEN = "fine-tuned", "frozen head"


class Labelled(typing.Protocol):
    """N memes as far as they are judged, as `head.data.features.Features` holds them."""

    @property
    def label(self) -> np.ndarray:
        """(N,) of 0 and 1."""

    @property
    def copies(self) -> np.ndarray:
        """(N,) equal for near-duplicates."""

    @property
    def subgroup(self) -> np.ndarray:
        """(N,) str, "" for none."""


def describe(
    split: str,
    memes: Labelled,
    probability: dict[str, np.ndarray],
    config: dict[str, Any],
    copied: np.ndarray,
) -> dict[str, Any]:
    """The metrics of every method on some memes, as JSON values.

    split: "tuning", "test" or "nested"; probability: {method: (N,)}; config: of the bundle, of which methods, shipped,
    reference, review, threshold and seed are read; copied: (N,) bool, memes with a near-duplicate among the train memes.
    """
    methods, seed, shipped = config["methods"], config["seed"], config["shipped"]
    thresholds = {name: methods[name]["threshold"] for name in probability}
    reference = config["reference"]
    figures = measure(memes.label, probability, thresholds, memes.copies, seed)
    described = {
        "split": split,
        "definition": DEFINITION,
        "reference": reference,
        "methods": {
            name: {
                "threshold": thresholds[name],
                "settings": methods[name]["settings"],
                "figures": {metric: figure.plain() for metric, figure in by_metric.items()},
            }
            for name, by_metric in figures.items()
        },
        "p": _p(memes, probability, shipped, reference),
        "subgroups": _subgroups(memes, probability[shipped] >= thresholds[shipped]),
        "review": _review(memes.label, probability[shipped], config),
        "copies": _copies(memes, probability[shipped], copied),
    }
    if FROZEN in probability:
        described["frozen"] = {"reference": FROZEN, "p": _p(memes, probability, shipped, FROZEN)}
    return described


@dataclass(frozen=True, eq=False)
class BundleData:
    """The memes of a bundle's index: those tuned on, and all of them, test included, where requested."""

    index: DatasetIndex
    tuning: Features
    everything: Features | None = None


def load_bundle_data(
    folder: Path, artifacts: Path, config: dict[str, Any], test: bool, frozen: bool = False
) -> BundleData:
    """The memes of the bundle in `folder`. test: whether to read those of test, too; frozen: with the vectors of the encoder
    before fine-tuning. Raises UnusableIndex, and UnusableBundle if the data changed since tuning.
    """
    found, prefix = (config["finetuned"], "frozen_") if frozen else (config["data"], "")
    layout = Layout(artifacts)
    index, vectors = read_index(layout.datasets / found[f"{prefix}index"]), layout.vectors
    official, seed = config["protocol"]["name"] == "official", config["seed"]
    tuning = load_tuning(index, vectors, official, seed)
    if fingerprint(tuning, index.spec) != found[f"{prefix}fingerprint"]:
        raise UnusableBundle(
            f"{folder}: the memes, splits or vectors have changed since it was tuned; run `make tune` again"
        )
    return BundleData(index, tuning, load_everything(index, vectors, official, seed) if test else None)


def evaluate_bundle(folder: Path, artifacts: Path, say: Callable[[str], None]) -> None:
    """Evaluate on test and write metrics.json, predictions.json and gallery.json. Does nothing if metrics.json exists, so that
    test is read once. Without a test split the memes are those tuned on, with cross-fitted probabilities.

    In a fine-tuned bundle only the shipped method gets the fine-tuned encoder's vectors. Raises UnusableBundle, also if the
    data changed since tuning.
    """
    bundle = load_bundle(folder)
    if read_part(folder, "metrics.json") is not None:
        return
    config, predictions = bundle.config, read_predictions(folder)
    if not _refittable(bundle):
        raise UnusableBundle(
            f"{folder}: tuned by an older version, whose methods cannot be refitted; it can be served, but for a report run "
            "`make tune` again"
        )
    ours = frozen = load_bundle_data(folder, artifacts, config, test=True)
    if "finetuned" in config:
        frozen = load_bundle_data(folder, artifacts, config, test=True, frozen=True)
    assert ours.everything is not None and frozen.everything is not None  # requested above
    before_all = frozen.everything
    test, before = ours.everything.only("test"), before_all.only("test")
    if not np.array_equal(test.ids, before.ids):
        raise UnusableBundle(f"{folder}: the memes of test have changed since it was tuned; run `make finetune` again")
    if len(test):
        say(f"evaluating on the {len(test)} test memes, once")
        scores = _scores(bundle, frozen, artifacts)
        memes = dict.fromkeys(scores, before) | {config["shipped"]: test}
        probability = {
            name: Calibration(**method["calibration"])(scores[name](memes[name]))
            for name, method in config["methods"].items()
        }
        tuned_on = set(before_all.only("train", "validation").copies.tolist())
        copied = np.array([copy in tuned_on for copy in before.copies.tolist()])
        metrics = describe("test", test, probability, config, copied)
        predictions["test"] = predictions_of(test, probability)
        note_reading(artifacts, config, len(test))
        judged, chances = test, probability[config["shipped"]]
        metrics["drift"] = drift(before_all.only("train", "validation"), before, config["seed"])
    else:
        metrics = config["tuning_metrics"]
        judged, chances = _tuned_on(ours.tuning, predictions, config)
    metrics["slices"] = slices(judged, _texts(ours.index, judged), chances, config["threshold"], config["seed"])
    metrics["learning"] = _learning(frozen.tuning, config)
    gallery = _gallery(ours.index, judged, chances, ours.tuning, config)
    gallery["suspects"] = _suspects(ours.index, *_tuned_on(ours.tuning, predictions, config))
    write_part(folder, "gallery.json", gallery)
    write_part(folder, "predictions.json", predictions)
    write_part(folder, "metrics.json", metrics)


def _tuned_on(tuning: Features, predictions: dict[str, Any], config: dict[str, Any]) -> tuple[Features, np.ndarray]:
    """The memes tuned on that have a score, and their probabilities by the shipped method."""
    stored = predictions["tuning"]
    return tuning.at(np.flatnonzero(np.isin(tuning.ids, stored["ids"]))), np.array(
        stored["probability"][config["shipped"]]
    )


def _texts(index: DatasetIndex, memes: Features) -> list[str] | None:
    """The memes' texts; None for imported vectors, whose texts are unknown."""
    if "imported" in index.spec:
        return None
    shown = _shown(index)
    return [shown(memes, row)["text"] for row in range(len(memes))]


def _learning(tuning: Features, config: dict[str, Any]) -> dict[str, Any]:
    protocol, seed = Protocol(**config["protocol"]), config["seed"]
    folds = assign_folds(tuning.label, tuning.copies, tuning.split, protocol, seed)
    method = config["reference"]
    return {
        "method": method,
        "curve": learning_curve(tuning, method, parts(tuning.label, tuning.copies, folds, seed), seed),
    }


def _suspects(index: DatasetIndex, memes: Features, probability: np.ndarray) -> list[dict[str, Any]]:
    """Memes tuned on whose labels are likely wrong, as JSON values."""
    shown = _shown(index)
    return [
        {**shown(memes, row), "probability": float(probability[row])} for row in label_errors(memes.label, probability)
    ]


def _shown(index: DatasetIndex) -> Callable[[Features, int], dict[str, Any]]:
    """A function of some memes and a row: what the report shows of that meme."""
    place = {index.ids[row]: row for row in usable_rows(index)}

    def shown(memes: Features, row: int) -> dict[str, Any]:
        at = place[memes.ids[row]]
        return {"id": index.ids[at], "image": index.images[at], "text": index.texts[at], "label": index.labels[at]}

    return shown


def _refittable(bundle: Bundle) -> bool:
    """Whether this version can refit its methods: old bundles have no reference, or two members per fold."""
    config = bundle.config
    if "reference" not in config or SINGLE not in bundle.ensembles:
        return "reference" in config
    protocol = config["protocol"]
    members_of_folds = (1 if protocol["name"] == "official" else protocol["folds"]) * protocol["repeats"]
    return bool(bundle.ensembles[SINGLE].heads[0].members == members_of_folds)


def _scores(bundle: Bundle, frozen: BundleData, artifacts: Path) -> dict[str, Callable[[Features], np.ndarray]]:
    """{method: scoring function}: the bundle's heads, and the candidates, refitted."""
    protocol, seed = Protocol(**bundle.config["protocol"]), bundle.config["seed"]
    tuning, prompts = frozen.tuning, prompt_vectors(frozen.index, Layout(artifacts).vectors)
    folds = assign_folds(tuning.label, tuning.copies, tuning.split, protocol, seed)
    trained = bundle.ensembles[SINGLE].heads[0] if SINGLE in bundle.ensembles else None
    assert trained is None or isinstance(trained, FusionHead)
    data = CandidateData(tuning, members(folds), seed, prompts, trained)
    fitted = {name: method.score for name, method in fit_candidates(data).items()}
    return fitted | {name: ensemble.score for name, ensemble in bundle.ensembles.items()}


def predictions_of(memes: Features, probability: dict[str, np.ndarray]) -> dict[str, Any]:
    """Some memes' entry in predictions.json; probability: {method: (N,)}."""
    return {
        "ids": memes.ids.tolist(),
        "label": memes.label.tolist(),
        "group": memes.subgroup.tolist(),
        "copies": memes.copies.tolist(),
        "probability": {name: values.tolist() for name, values in probability.items()},
    }


def _p(memes: Labelled, probability: dict[str, np.ndarray], one: str, other: str) -> float | None:
    """p-value of the difference of two methods' AUROC; None for a method and itself, or memes of one class."""
    if one == other or len(np.unique(memes.label)) < 2:
        return None
    return auroc_difference(memes.label, probability[one], probability[other], memes.copies).p


def _subgroups(memes: Labelled, called: np.ndarray) -> list[dict[str, Any]]:
    """Error rates by subgroup; [] if the data name no subgroups."""
    rows = []
    for group in sorted(set(memes.subgroup.tolist())) if memes.subgroup.any() else []:
        there = memes.subgroup == group
        wrong = {value: called[there & (memes.label == value)] != value for value in (0, 1)}
        rows.append(
            {
                "group": group,
                "memes": int(there.sum()),
                "offensive": int(memes.label[there].sum()),
                "false_positive_rate": share(wrong[0]).plain(),
                "false_negative_rate": share(wrong[1]).plain(),
            }
        )
    return rows


def _review(label: np.ndarray, probability: np.ndarray, config: dict[str, Any]) -> dict[str, Any] | None:
    band = config["review"]
    if band is None:
        return None
    coverage, error = measure_band(label, probability, config["threshold"], band["low"], band["high"])
    return {"coverage": coverage, "error": error.plain()}


def _copies(memes: Labelled, probability: np.ndarray, copied: np.ndarray) -> dict[str, Any]:
    """Number of memes with a near-duplicate among the train memes, and the AUROC without them."""
    without = auroc_estimate(memes.label[~copied], probability[~copied], memes.copies[~copied])
    return {"memes": int(copied.sum()), "auroc_without": without.plain()}


def _gallery(
    index: DatasetIndex, judged: Features, probability: np.ndarray, tuning: Features, config: dict[str, Any]
) -> dict[str, Any]:
    """The most confident mistakes, each with its nearest memes among those tuned on."""
    threshold = config["threshold"]
    wrong = (probability >= threshold) != (judged.label == 1)
    # distance from the threshold, relative to the largest possible on that side
    room = np.where(probability >= threshold, 1 - threshold, threshold)
    confidence = np.abs(probability - threshold) / np.maximum(room, 1e-9)
    worst = np.flatnonzero(wrong)[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    shown = _shown(index)
    similar = Similar(tuning.image, tuning.text)
    mistakes = []
    for row in worst:
        own = np.flatnonzero(tuning.ids == judged.ids[row])
        near = similar.nearest(judged.image[row], judged.text[row], NEIGHBOURS, own)
        neighbours = [
            {**shown(tuning, n), "similarity": s} for n, s in zip(near.rows.tolist(), near.similarity.tolist())
        ]
        mistakes.append({**shown(judged, row), "probability": float(probability[row]), "neighbours": neighbours})
    places = {name: index.source.get(name, "") for name in ("images", "links")}
    return {"data": config["data"]["source"], **places, "mistakes": mistakes}
