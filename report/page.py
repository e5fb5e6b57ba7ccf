"""The report of one bundle as an HTML page, from the values of its JSON files."""

import json
from typing import Any

import numpy as np

from head.bundle.format import demo_notice_of
from head.fitting import ENSEMBLE
from head.judge.verdict import stated_p, verdict
from head.model.method import MAJORITY
from head.search.space import DIFFERENCES
from report import charts, words
from report.costs import CostModel, cost_curve, costs, per_thousand, threshold_metrics
from report.curves import both_classes, confusion
from report.html import render_template
from report.judged import JudgedBundle
from report.published import NOTE, published_figures

# Parameters with a plot.
_SLICES = 6


def render(judged: JudgedBundle, pictures: dict[str, str], cost_model: CostModel) -> str:
    """The page as HTML, the same for the same values.

    pictures: {image in the gallery: data URI}, of some or all. Raises KeyError, TypeError, AttributeError or
    jinja2.UndefinedError if a JSON file is damaged.
    """
    config, metrics, nested = judged.config, judged.metrics, judged.nested
    part = judged.predictions[metrics["split"]]
    nested_shipped = (nested or {}).get("shipped", ENSEMBLE)
    label = np.array(part["label"])
    probabilities = {name: np.array(values) for name, values in part["probability"].items()}
    return render_template(
        "report.html",
        title=f"Report: {config['name']}",
        config=config,
        notice=demo_notice_of(config),
        metrics=metrics,
        nested=nested,
        nested_shipped=nested_shipped,
        nested_verdict="" if nested is None else verdict({**config, "shipped": nested_shipped}, nested),
        main=words.main_methods(config["shipped"], metrics),
        gallery=judged.gallery,
        pictures=pictures,
        verdict=verdict(config, metrics),
        p=stated_p(config["shipped"], metrics),
        facts=words.facts(config, metrics, part["label"], judged.readings),
        judged=words.judged_words(config, metrics["split"]),
        confusion=_confusion(config, label, probabilities[config["shipped"]]),
        measured=_plots(config, metrics, label, probabilities),
        threshold_metrics=threshold_metrics(label, probabilities[config["shipped"]], config["threshold"]),
        cost_model=cost_model,
        in_use=_in_use(config, label, probabilities[config["shipped"]], cost_model),
        learning=_learning(metrics),
        published=published_figures(config) if metrics["split"] == "test" else (),
        published_note=NOTE,
        finetuning=_finetuning(config),
        search=_search(config),
        made=words.provenance(config),
        picks=[(words.pick_name(pick), words.pick_words(pick)) for pick in config["study"]["picks"]],
        spec=json.dumps(config["spec"], indent=2, ensure_ascii=False, sort_keys=True),
    )


def _confusion(config: dict[str, Any], label: np.ndarray, probability: np.ndarray) -> dict[str, list[tuple[int, str]]]:
    """{label: (memes, share of the row) of each answer}."""
    review = config["review"]
    band = None if review is None else (review["low"], review["high"])
    rows = {}
    for value, counts in confusion(label, probability, config["threshold"], band).items():
        total = sum(counts)
        shares = [words.percent(count / total) if total else "" for count in counts]
        answers = list(zip(counts, shares))
        rows[config["labels"][value]] = answers if band else [answers[0], answers[2]]
    return rows


def _plots(
    config: dict[str, Any], metrics: dict[str, Any], label: np.ndarray, probabilities: dict[str, np.ndarray]
) -> dict[str, str]:
    """Plots of the evaluated memes, {name: data URI}; with one class only the reliability."""
    shipped = config["shipped"]
    ours = probabilities[shipped]
    simple = {name: probabilities[name] for name in (metrics["reference"],) if name != shipped}
    plots = {"reliability": charts.reliability_chart(label, {shipped: ours, **simple})}
    if both_classes(label):
        others = [name for name in words.main_methods(shipped, metrics) if name not in (shipped, MAJORITY)]
        curves = {name: probabilities[name] for name in (shipped, *others)}
        plots["roc"] = charts.roc_chart(label, curves)
        plots["precision_recall"] = charts.precision_recall_chart(label, curves)
        plots["threshold"] = charts.threshold_chart(label, ours, config["threshold"])
    return plots


def _in_use(
    config: dict[str, Any], label: np.ndarray, probability: np.ndarray, cost_model: CostModel
) -> dict[str, Any] | None:
    """Flagged and missed memes and costs; None with one class only."""
    if not both_classes(label):
        return None
    threshold = config["threshold"]
    found = costs(label, probability, threshold, cost_model)
    return {
        "rows": per_thousand(label, probability, threshold, cost_model),
        "costs": found,
        "chart": charts.cost_chart(*cost_curve(label, probability, cost_model), found, threshold),
    }


def _learning(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The learning curve with a summary; None for older bundles and too few memes."""
    learning = metrics.get("learning")
    if not learning or len(learning["curve"]) < 2:
        return None
    return {"words": words.learning_words(learning), "chart": charts.learning_chart(learning["curve"])}


def _finetuning(config: dict[str, Any]) -> dict[str, str] | None:
    """The fine-tuning in words, and the losses by epoch; None for a frozen encoder."""
    tuned = config.get("finetuned")
    if tuned is None:
        return None
    return {
        "words": words.finetuning_words(config),
        "tried": words.tried_words(tuned),
        "losses": charts.losses_chart(tuned["history"], tuned["best_epoch"]),
    }


def _search(config: dict[str, Any]) -> dict[str, Any]:
    """Plots of the study, None where there is nothing to draw, and the numbers of trials."""
    study, measure = config["study"], words.measure_words(config)
    importances = study["importances"]
    any_value = any(run["value"] is not None for run in study["history"])
    return {
        "history": charts.history_chart(study["history"], measure) if any_value else None,
        "measure": measure,
        "importances": charts.importance_chart(importances) if importances else None,
        "slices": {
            name: charts.slice_chart(name, runs) for name, runs in _slices(study["history"], importances).items()
        },
        "recipes": words.recipes(study),
        "differences": DIFFERENCES,
        "complete": sum(run["state"] == "complete" for run in study["history"]),
        "pruned": sum(run["state"] == "pruned" for run in study["history"]),
    }


def _slices(history: list[dict[str, Any]], importances: dict[str, float]) -> dict[str, list[tuple[int, Any, float]]]:
    """{parameter: (trial, setting, value) of complete trials} of the most important parameters with several settings."""
    done = [run for run in history if run["state"] == "complete" and run["value"] is not None]
    ranked = sorted(importances, key=lambda name: -importances[name])
    found = {}
    for name in dict.fromkeys([*ranked, *(name for run in done for name in run["params"])]):
        runs = [(run["trial"], run["params"][name], run["value"]) for run in done if name in run["params"]]
        if len({str(setting) for _, setting, _ in runs}) > 1:
            found[name] = runs
    return dict(list(found.items())[:_SLICES])
