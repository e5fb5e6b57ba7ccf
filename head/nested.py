"""Nested cross-validation: an honest estimate of the whole procedure where there is no test split, or a small one.

Each outer fold is held out in turn; on the others everything is done as `make tune` does it, search included, and what
comes out judges the fold. No meme has any part in the choice of what judges it (Varma and Simon, "Bias in error
estimation when using cross-validation for model selection", 2006). `python -m head nested` runs it.
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
# What each outer fold's tuning chose without it: to ship, and as the strongest candidate.
SHIPPED, SIMPLE = "shipped method", "best simple method"


def nested(
    features: Features, spec: dict, prompts: dict[str, np.ndarray], config: TuneConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """What nested.json holds: metrics of every method on all memes, each by a procedure that had not seen it.

    The memes' split is not looked at; near-duplicates stay in one outer fold. A fold's study is kept under the name of
    the study with the fold's number, and a run that is stopped goes on from there. Raises what `tune` raises.
    """
    pool = replace(features, split=np.full(len(features), "train", "U10"))
    seed = config.study.seed
    outer = assign_folds(pool.label, pool.copies, pool.split, Protocol("kfold", _OUTER_FOLDS, 1), seed)
    probability: dict[str, np.ndarray] = {}
    threshold: dict[str, np.ndarray] = {}
    folds = []
    for number, (rows, held) in enumerate(members(outer), 1):
        say(f"outer fold {number} of {_OUTER_FOLDS}: {len(rows)} memes to tune on, {len(held)} to judge by")
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
