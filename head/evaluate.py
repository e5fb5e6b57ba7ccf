"""Every method beside every other: thresholds from validation, figures from the evaluation split, and the verdict.

Does not know how the head was found. `python -m head tune` calls it once, after tuning.
"""

from typing import Any

import numpy as np

from head.baselines import BOTH, fit_baselines
from head.data import Features
from head.fusion import FusionHead
from head.metrics import DEFINITION, METRICS, Estimate, auroc_difference, choose_threshold, evaluate
from head.train import predict

HEAD = "fusion head"
_OPTIMISTIC = (
    " There is no test split: these figures are optimistic, since validation chose the head, the penalties and the "
    "thresholds, and the intervals do not allow for that."
)


def evaluate_methods(head: FusionHead, features: Features, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the bundle keeps of an evaluation: metrics and predictions, both ready for JSON.

    metrics: {split, definition, methods: {name: {threshold, settings, each of METRICS: {point, interval}}},
    auroc_difference}; the split is test where there is one, else validation. predictions: {split: {ids, label,
    probability: {name: [N]}}} for validation and test, so that a report never needs the data again.
    """
    split = "test" if "test" in features.split else "validation"
    baselines = fit_baselines(features)
    predictions = {}
    for name in dict.fromkeys(("validation", split)):
        memes = features.only(name)
        chances = {HEAD: predict(head, memes), **{n: b.probability(memes) for n, b in baselines.items()}}
        predictions[name] = {"ids": memes.ids.tolist(), "label": memes.label, "probability": chances}
    methods = {name: _method(name, predictions, split, seed) for name in predictions[split]["probability"]}
    for name, baseline in baselines.items():
        methods[name]["settings"] = baseline.settings
    chances = predictions[split]["probability"]
    difference = auroc_difference(predictions[split]["label"], chances[HEAD], chances[BOTH], seed)
    metrics = {"split": split, "definition": DEFINITION, "methods": methods, "auroc_difference": _plain(difference)}
    return metrics, {name: _lists(part) for name, part in predictions.items()}


def read_estimate(figure: dict[str, Any]) -> Estimate:
    """An estimate as the bundle keeps it, {point, interval}."""
    low, high = figure["interval"] or (None, None)
    return Estimate(figure["point"], low, high)


def verdict(metrics: dict[str, Any]) -> str:
    """The evaluation in a few plain sentences: head against chance, then against logistic regression."""
    split = metrics["split"]
    ours = read_estimate(metrics["methods"][HEAD]["auroc"])
    peer = read_estimate(metrics["methods"][BOTH]["auroc"])
    figures = f"On {split}, the fusion head has an AUROC of {ours}, logistic regression on the same vectors {peer}"
    if ours.point is None:
        said = f"The {split} split has memes of one class only, so AUROC is undefined and nothing is compared"
    elif ours.contains(0.5):
        said = f"{figures}. The interval of the head's AUROC contains 0.5: no better than guessing here"
    elif ours.point < 0.5:
        said = f"{figures}. The head ranks the memes the wrong way round: worse than guessing here"
    elif split == "validation":
        # The best of many trials has an interval above 0.5 on pure noise, too.
        said = f"{figures}. Whether the head is better than guessing cannot be told from the memes that chose it"
    else:
        against = _against(read_estimate(metrics["auroc_difference"]))
        said = f"{figures}. The head is better than guessing, and {against}"
    return f"{said}.{_OPTIMISTIC if split == 'validation' else ''}"


def _against(difference: Estimate) -> str:
    figure = f"difference of AUROC {difference.point:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.contains(0.0):
        return f"not distinguishable from logistic regression ({figure})"
    if difference.point > 0:
        return f"better than logistic regression ({figure})"
    return f"worse than logistic regression, which is the simpler choice ({figure})"


def _method(name: str, predictions: dict[str, Any], split: str, seed: int) -> dict[str, Any]:
    chosen_on, judged_on = predictions["validation"], predictions[split]
    threshold = choose_threshold(chosen_on["label"], chosen_on["probability"][name])
    figures = evaluate(judged_on["label"], judged_on["probability"][name], threshold, seed)
    return {"threshold": threshold, "settings": {}, **{metric: _plain(figures[metric]) for metric in METRICS}}


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"point": estimate.point, "interval": None if estimate.point is None else [estimate.low, estimate.high]}


def _lists(part: dict[str, Any]) -> dict[str, Any]:
    probability: dict[str, np.ndarray] = part["probability"]
    return {**part, "label": part["label"].tolist(), "probability": {n: p.tolist() for n, p in probability.items()}}
