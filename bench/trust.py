"""Whether the told numbers hold: tuning on planted memes with a known truth, judged on 6,000 new ones.

    python -m bench.trust run bench/trust.jsonl            # appends a line a run; a second command goes on from there
    python -m bench.trust table bench/trust.jsonl          # the table of RESULTS.md

A cell is a rule, a prevalence and a number of memes, tuned on with several seeds. Cells with fewer than eight memes of a
label are left out.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from bench.machine import say
from bench.planted import TRUST_RULES, trusted
from cache import limit_threads
from head.data.folds import Protocol
from head.data.ranking import auroc
from head.fitting import ENSEMBLE
from head.judge.calibrated import CalibratedMethod
from head.judge.delong import auroc_difference
from head.judge.threshold import Aim, Unreachable, choose_threshold, measure_band, review_band
from head.pipeline import TuneConfig, tune
from head.search.study import StudyConfig

_PREVALENCES, _COUNTS, _FEWEST = (0.4, 0.1, 0.02), (100, 600, 5000), 8
_FRESH, _BAND = 6000, 0.2
_RECALL, _PRECISION = Aim("recall", 0.9), Aim("precision", 0.8)


@dataclass(frozen=True, order=True)
class Cell:
    """What is planted."""

    memes: int
    prevalence: float
    rule: str


def main() -> int:
    """Run or tabulate."""
    asked = _parser().parse_args()
    if asked.command == "table":
        print(table([json.loads(line) for line in asked.file.read_text().splitlines()]))
        return 0
    limit_threads()
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    for cell, seed in _missing(asked):
        run = measured(cell, seed, asked.trials)
        with asked.file.open("a") as file:
            file.write(json.dumps(run) + "\n")
        say(f"{cell}, seed {seed}: {run['seconds']} s, ships {run['shipped']}")
    return 0


def measured(cell: Cell, seed: int, trials: int) -> dict[str, Any]:
    """Tune once; what was told and what is true, of every method."""
    known, optimum = trusted(cell.rule, cell.prevalence, cell.memes, seed, exact=True)
    fresh, _ = trusted(cell.rule, cell.prevalence, _FRESH, 1000 + seed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-trust-") as folder:
        study = StudyConfig(f"sqlite:///{folder}/studies.sqlite3", "trust", trials, seed)
        tuned = tune(known, "trust", {}, TuneConfig(study, Protocol("kfold"), Aim()))
    seconds = round(time.perf_counter() - began)
    peer = tuned.methods[tuned.reference].out_of_fold
    ours = tuned.methods[ENSEMBLE].out_of_fold
    return {
        **vars(cell),
        "seed": seed,
        "trials": trials,
        "seconds": seconds,
        "knows": optimum,
        "shipped": tuned.best,
        "reference": tuned.reference,
        "lead": auroc_difference(known.label, ours, peer, known.copies).lead,
        "methods": {
            name: _judged(judged, known.label, judged.out_of_fold, fresh.label, judged.probability(fresh))
            for name, judged in tuned.methods.items()
        },
    }


def _judged(
    judged: CalibratedMethod, label: np.ndarray, told: np.ndarray, truth: np.ndarray, true: np.ndarray
) -> dict[str, Any]:
    """Of one method; told: (N,) probabilities out of fold; true: those of the new memes."""
    there = np.isfinite(told)
    label, told = label[there], told[there]
    size = float(np.std(logit(np.clip(true, 1e-9, 1 - 1e-9))))
    figures: dict[str, Any] = {
        "told": auroc(label, told),
        "true": auroc(truth, true),
        "slope": _slope(truth, true) if size > 1e-6 else None,
    }
    band = review_band(label, told, judged.threshold, _BAND)
    answered, _ = measure_band(truth, true, judged.threshold, band.low, band.high)
    figures |= {"band": band.coverage, "answered": answered}
    for name, aim in (("recall", _RECALL), ("precision", _PRECISION)):
        try:
            called = true >= choose_threshold(label, told, aim)
        except Unreachable:
            figures[name] = None
            continue
        hits, of = (called & (truth == 1)).sum(), (truth == 1).sum() if name == "recall" else called.sum()
        figures[name] = float(hits / of) if of else 1.0
    return figures


def _slope(label: np.ndarray, probability: np.ndarray) -> float:
    """Of the logistic regression of the labels on the logits: 1 where probabilities are neither too sure nor too unsure."""
    scores = logit(np.clip(probability, 1e-9, 1 - 1e-9))[:, None]
    scale = float(scores.std())
    return float(LogisticRegression(C=np.inf).fit(scores / scale, label).coef_[0, 0] / scale)


def _missing(asked: argparse.Namespace) -> Iterator[tuple[Cell, int]]:
    for seed in range(asked.first, asked.first + asked.seeds):
        for cell in cells(asked.memes, asked.rules):
            done = _done(asked.file)
            if (cell, seed) not in done:
                yield cell, seed


def _done(file: Path) -> set[tuple[Cell, int]]:
    if not file.exists():
        return set()
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    return {(Cell(run["memes"], run["prevalence"], run["rule"]), run["seed"]) for run in runs}


def cells(counts: list[int], rules: list[str]) -> list[Cell]:
    """Those with enough memes of each label, the small ones first."""
    return [
        Cell(memes, prevalence, rule)
        for memes in counts
        for prevalence in _PREVALENCES
        for rule in rules
        if memes * prevalence >= _FEWEST
    ]


def table(runs: list[dict[str, Any]]) -> str:
    """A row a cell, of what ships. regret: in mean AUROC, against the method with the highest mean in the cell."""
    by_cell: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_cell[Cell(run["memes"], run["prevalence"], run["rule"])].append(run)
    lines = [
        (
            "| memes | offensive | rule | seeds | slope, mean and median | told - true AUROC | regret | band, told - answered | recall .9 met | "
            "precision .8 met | refused | ensemble ships |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, of in sorted(by_cell.items()):
        shipped = [run["methods"][run["shipped"]] for run in of]
        slope = [one["slope"] for one in shipped if one["slope"] is not None]
        gap = [one["told"] - one["true"] for one in shipped]
        names = set.intersection(*(set(run["methods"]) for run in of))
        best = max(np.mean([run["methods"][name]["true"] for run in of]) for name in names)
        regret = best - np.mean([one["true"] for one in shipped])
        band = [one["band"] - one["answered"] for one in shipped]
        met = {name: [one[name] for one in shipped if one[name] is not None] for name in ("recall", "precision")}
        told = {name: _share(values, goal) for (name, values), goal in zip(met.items(), (0.9, 0.8))}
        refused = sum(one["precision"] is None for one in shipped)
        ships = sum(run["shipped"] == ENSEMBLE for run in of)
        lines.append(
            f"| {cell.memes} | {cell.prevalence} | {cell.rule} | {len(of)} | {_both(slope)} | {np.mean(gap):+.3f} | {regret:.3f} | "
            f"{np.mean(band):+.3f} | {told['recall']} | {told['precision']} | {refused} | {ships} |"
        )
    return "\n".join(lines)


def _both(slopes: list[float]) -> str:
    """Few memes give a slope of any size now and then, which moves the mean."""
    return f"{np.mean(slopes):.2f}, {np.median(slopes):.2f}" if slopes else "n/a"


def _share(reached: list[float], goal: float) -> str:
    return f"{sum(value >= goal for value in reached)} of {len(reached)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.trust", description="Whether the told numbers hold.")
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("file", type=Path, help="of the runs, one JSON object a line")
    parser.add_argument("--memes", type=int, nargs="+", default=list(_COUNTS), help="(default: %(default)s)")
    parser.add_argument("--rules", nargs="+", choices=TRUST_RULES, default=list(TRUST_RULES))
    parser.add_argument("--seeds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
