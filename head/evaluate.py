"""Every method beside every other: figures, subgroups, mistakes.

`head tune` describes the memes that were tuned on, by out-of-fold predictions; `python -m report` looks at test, once.
Thresholds and calibrations are never touched here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cache import DatasetIndex, read_index
from head.baselines import BOTH, fit_baselines
from head.bundle import UnusableBundle, load_bundle, read_part, read_predictions, write_part
from head.calibration import Calibration
from head.data import Features, fingerprint, load_everything, load_tuning, prompt_vectors, usable_rows
from head.folds import Protocol, assign_folds, members
from head.metrics import DEFINITION, Estimate, Figure, compare, read_figure, share
from head.procedure import ENSEMBLE
from head.similar import Similar
from head.threshold import measure_band

MISTAKES, NEIGHBOURS = 12, 3


def describe(
    split: str,
    memes: Features,
    probability: dict[str, np.ndarray],
    config: dict[str, Any],
    copied: np.ndarray,
) -> dict[str, Any]:
    """The metrics of every method on some memes, ready for JSON.

    split: "tuning", "test" or "nested"; probability: {method: (N,)}; config: of the bundle, of which methods' thresholds
    and settings, shipped, review and seed are read; copied: (N,) bool, which memes have a near-copy among those tuned on.
    """
    methods, seed, shipped = config["methods"], config["seed"], config["shipped"]
    thresholds = {name: methods[name]["threshold"] for name in probability}
    figures = compare(memes.label, probability, thresholds, BOTH, seed)
    return {
        "split": split,
        "definition": DEFINITION,
        "reference": BOTH,
        "methods": {
            name: {
                "threshold": thresholds[name],
                "settings": methods[name]["settings"],
                "figures": {metric: figure.plain() for metric, figure in by_metric.items()},
            }
            for name, by_metric in figures.items()
        },
        "subgroups": _subgroups(memes, probability[shipped] >= thresholds[shipped]),
        "review": _review(memes.label, probability[shipped], config),
        "copies": _copies(memes.label, probability[shipped], copied, seed),
    }


def evaluate_bundle(folder: Path, artifacts: Path, say: Callable[[str], None]) -> None:
    """Look at the test memes and write metrics.json, predictions.json and gallery.json; nothing where metrics.json is
    there already, so that test is looked at once. Without a test split the memes are those tuned on.

    Raises UnusableBundle, also where the data are no longer those that the bundle was tuned on.
    """
    bundle = load_bundle(folder)
    if read_part(folder, "metrics.json") is not None:
        return
    config, predictions = bundle.config, read_predictions(folder)
    index = read_index(artifacts / "datasets" / config["data"]["index"])
    protocol, seed = Protocol(**config["protocol"]), config["seed"]
    official = protocol.name == "official"
    tuning = load_tuning(index, artifacts / "vectors", official, seed)
    if fingerprint(tuning, index.spec) != config["data"]["fingerprint"]:
        raise UnusableBundle(
            f"{folder}: the memes, splits or vectors have changed since it was tuned; run `make tune` again"
        )
    everything = load_everything(index, artifacts / "vectors", official, seed)
    test = everything.only("test")
    if len(test):
        say(f"looking at the {len(test)} memes of test, once")
        scores: dict[str, Callable[[Features], np.ndarray]] = {
            name: ensemble.score for name, ensemble in bundle.ensembles.items()
        }
        shares = members(assign_folds(tuning.label, tuning.copies, tuning.split, protocol, seed))
        prompts = prompt_vectors(index, artifacts / "vectors")
        scores |= {n: m.score for n, m in fit_baselines(tuning, shares, prompts, seed).items() if n not in scores}
        probability = {
            name: Calibration(**method["calibration"])(scores[name](test)) for name, method in config["methods"].items()
        }
        tuned_on = set(everything.only("train", "validation").copies.tolist())
        copied = np.array([copy in tuned_on for copy in test.copies.tolist()])
        metrics = describe("test", test, probability, config, copied)
        predictions["test"] = part(test, probability)
        judged, chances = test, probability[config["shipped"]]
    else:
        metrics = config["tuning_metrics"]
        chances = np.array(predictions["tuning"]["probability"][config["shipped"]])
        judged = tuning.at(np.flatnonzero(np.isin(tuning.ids, predictions["tuning"]["ids"])))
    write_part(folder, "gallery.json", _gallery(index, judged, chances, tuning, config))
    write_part(folder, "predictions.json", predictions)
    write_part(folder, "metrics.json", metrics)


def part(memes: Features, probability: dict[str, np.ndarray]) -> dict[str, Any]:
    """Some memes' predictions, ready for JSON."""
    return {
        "ids": memes.ids.tolist(),
        "label": memes.label.tolist(),
        "group": memes.subgroup.tolist(),
        "probability": {name: values.tolist() for name, values in probability.items()},
    }


def regression_wins(tuning_metrics: dict[str, Any]) -> bool:
    """Whether logistic regression ranks the memes tuned on, out of fold, at least as well as the tuned ensemble."""
    figures = (tuning_metrics["methods"][name]["figures"]["auroc"] for name in (ENSEMBLE, BOTH))
    ours, peer = (read_figure(figure).estimate.point for figure in figures)
    return ours is not None and peer is not None and peer >= ours


def _subgroups(memes: Features, called: np.ndarray) -> list[dict[str, Any]]:
    """How the memes of each group named in the data fare; nothing where the data name none."""
    rows = []
    for group in sorted(set(memes.subgroup.tolist())) if memes.subgroup.any() else []:
        there = memes.subgroup == group
        wrong = {value: called[there & (memes.label == value)] != value for value in (0, 1)}
        rows.append(
            {
                "group": group,
                "memes": int(there.sum()),
                "offensive": int(memes.label[there].sum()),
                "false_positive_rate": Figure(share(wrong[0]), None).plain(),
                "false_negative_rate": Figure(share(wrong[1]), None).plain(),
            }
        )
    return rows


def _review(label: np.ndarray, probability: np.ndarray, config: dict[str, Any]) -> dict[str, Any] | None:
    band = config["review"]
    if band is None:
        return None
    coverage, error = measure_band(label, probability, config["threshold"], band["low"], band["high"])
    return {"coverage": coverage, "error": Figure(error, None).plain()}


def _copies(label: np.ndarray, probability: np.ndarray, copied: np.ndarray, seed: int) -> dict[str, Any]:
    """How many of the memes have a near-copy among those tuned on, and the AUROC of the others."""
    others = ~copied
    without = Figure(Estimate(None, None, None), None)
    if others.any():
        without = compare(label[others], {"": probability[others]}, {"": 0.5}, None, seed)[""]["auroc"]
    return {"memes": int(copied.sum()), "auroc_without": without.plain()}


def _gallery(
    index: DatasetIndex, judged: Features, probability: np.ndarray, tuning: Features, config: dict[str, Any]
) -> dict[str, Any]:
    """The mistakes that were made with most confidence, each with the memes tuned on that are most like it."""
    threshold = config["threshold"]
    wrong = (probability >= threshold) != (judged.label == 1)
    # as far from the threshold as there is room on that side
    room = np.where(probability >= threshold, 1 - threshold, threshold)
    confidence = np.abs(probability - threshold) / np.maximum(room, 1e-9)
    worst = np.flatnonzero(wrong)[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    place = {index.ids[row]: row for row in usable_rows(index)}

    def shown(memes: Features, row: int) -> dict[str, Any]:
        at = place[memes.ids[row]]
        return {"id": index.ids[at], "image": index.images[at], "text": index.texts[at], "label": index.labels[at]}

    similar = Similar(tuning.image, tuning.text)
    mistakes = []
    for row in worst:
        itself = np.flatnonzero(tuning.ids == judged.ids[row])
        near = similar.nearest(judged.image[row], judged.text[row], NEIGHBOURS, itself)
        neighbours = [
            {**shown(tuning, n), "similarity": s} for n, s in zip(near.rows.tolist(), near.similarity.tolist())
        ]
        mistakes.append({**shown(judged, row), "probability": float(probability[row]), "neighbours": neighbours})
    return {"data": config["data"]["source"], "mistakes": mistakes}
