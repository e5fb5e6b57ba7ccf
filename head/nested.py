"""Nested cross-validation: an unbiased estimate of the tuning procedure, for small or missing test splits.

The whole procedure, search included, runs on all outer folds but one and is evaluated on that one, each in turn (Varma and
Simon, "Bias in error estimation when using cross-validation for model selection", 2006).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from head.bundle.evaluation import describe
from head.data.features import Features, fingerprint
from head.data.folds import Protocol, assign_folds, members
from head.data.ranking import auroc
from head.pipeline import TuneConfig, tune

_OUTER_FOLDS = 5
# What each outer fold's tuning ships, and its reference.
SHIPPED, SIMPLE = "shipped method", "best simple method"


def nested(
    features: Features, spec: dict, prompts: dict[str, np.ndarray], config: TuneConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """The contents of nested.json: metrics of every method on all memes, each predicted by a tuning without it.

    The memes' splits are ignored; near-duplicates stay in one outer fold. Each fold has its own study, named with the fold's
    number, so that an interrupted run resumes. Raises what `tune` raises.
    """
    pool = replace(features, split=np.full(len(features), "train", "U10"))
    seed = config.study.seed
    outer = assign_folds(pool.label, pool.copies, pool.split, Protocol("kfold", _OUTER_FOLDS, 1), seed)
    probability: dict[str, np.ndarray] = {}
    threshold: dict[str, np.ndarray] = {}
    folds = []
    for number, (rows, held) in enumerate(members(outer), 1):
        say(f"outer fold {number} of {_OUTER_FOLDS}: {len(rows)} memes to tune on, {len(held)} held out")
        inside, outside = pool.at(rows), pool.at(held)
        study = replace(config.study, study=f"{config.study.study}-outer-{number}")
        tuned = tune(inside, fingerprint(inside, spec), prompts, replace(config, study=study))
        found = {}
        chosen = {SHIPPED: tuned.methods[tuned.best], SIMPLE: tuned.methods[tuned.reference]}
        for name, judged in (chosen | tuned.methods).items():
            chances = judged.probability(outside)
            probability.setdefault(name, np.zeros(len(pool)))[held] = chances
            threshold.setdefault(name, np.zeros(len(pool)))[held] = judged.threshold
            found[name] = auroc(outside.label, chances)
        folds.append({"memes": len(held), "auroc": found})
    methods = {name: {"threshold": threshold[name], "settings": {}} for name in probability}
    bundle = {"methods": methods, "seed": seed, "shipped": SHIPPED, "reference": SIMPLE, "review": None}
    metrics = describe("nested", pool, probability, bundle, np.zeros(len(pool), bool))
    for method in metrics["methods"].values():
        method["threshold"] = float(np.mean(method["threshold"]))
    return {**metrics, "shipped": SHIPPED, "folds": folds, "trials": config.study.trials}
