"""Check reported figures against the truth: tuning on synthetic memes, evaluation on 6,000 new ones.

    python -m bench.trust run bench/trust.jsonl            # appends one line per run, skipping runs already there
    python -m bench.trust table bench/trust.jsonl          # the table of RESULTS.md

A cell is a rule, a prevalence and a number of memes, tuned with several seeds. Cells with fewer than eight memes of a
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
from bench.planted import TRUST_RULES, trust_features
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
    """Parameters of the synthetic memes."""

    memes: int
    prevalence: float
    rule: str


def main() -> int:
    """Run the missing cells, or print the table."""
    args = _parser().parse_args()
    if args.command == "table":
        print(table([json.loads(line) for line in args.file.read_text().splitlines()]))
        return 0
    limit_threads()
    args.file.parent.mkdir(parents=True, exist_ok=True)
    for cell, seed in _missing(args):
        run = measured(cell, seed, args.trials)
        with args.file.open("a") as file:
            file.write(json.dumps(run) + "\n")
        say(f"{cell}, seed {seed}: {run['seconds']} s, ships {run['shipped']}")
    return 0


def measured(cell: Cell, seed: int, trials: int) -> dict[str, Any]:
    """Tune once; reported ("told") and true figures of every method."""
    known, optimum = trust_features(cell.rule, cell.prevalence, cell.memes, seed, exact=True)
    fresh, _ = trust_features(cell.rule, cell.prevalence, _FRESH, 1000 + seed)
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
    judged: CalibratedMethod, label: np.ndarray, out_of_fold: np.ndarray, truth: np.ndarray, fresh: np.ndarray
) -> dict[str, Any]:
    """Figures of one method. out_of_fold: (N,) probabilities; truth, fresh: (M,) labels, probabilities of new memes."""
    there = np.isfinite(out_of_fold)
    label, out_of_fold = label[there], out_of_fold[there]
    size = float(np.std(logit(np.clip(fresh, 1e-9, 1 - 1e-9))))
    figures: dict[str, Any] = {
        "told": auroc(label, out_of_fold),
        "true": auroc(truth, fresh),
        "slope": _slope(truth, fresh) if size > 1e-6 else None,
    }
    band = review_band(label, out_of_fold, judged.threshold, _BAND)
    answered, _ = measure_band(truth, fresh, judged.threshold, band.low, band.high)
    figures |= {"band": band.coverage, "answered": answered}
    for name, aim in (("recall", _RECALL), ("precision", _PRECISION)):
        try:
            called = fresh >= choose_threshold(label, out_of_fold, aim)
        except Unreachable:
            figures[name] = None
            continue
        hits, of = (called & (truth == 1)).sum(), (truth == 1).sum() if name == "recall" else called.sum()
        figures[name] = float(hits / of) if of else 1.0
    return figures


def _slope(label: np.ndarray, probability: np.ndarray) -> float:
    """Calibration slope: logistic regression of labels on logits; 1 is well calibrated, below 1 overconfident."""
    scores = logit(np.clip(probability, 1e-9, 1 - 1e-9))[:, None]
    scale = float(scores.std())
    return float(LogisticRegression(C=np.inf).fit(scores / scale, label).coef_[0, 0] / scale)


def _missing(args: argparse.Namespace) -> Iterator[tuple[Cell, int]]:
    for seed in range(args.first, args.first + args.seeds):
        for cell in cells(args.memes, args.rules):
            done = _done(args.file)
            if (cell, seed) not in done:
                yield cell, seed


def _done(file: Path) -> set[tuple[Cell, int]]:
    if not file.exists():
        return set()
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    return {(Cell(run["memes"], run["prevalence"], run["rule"]), run["seed"]) for run in runs}


def cells(counts: list[int], rules: list[str]) -> list[Cell]:
    """The cells with enough memes of each label, the smallest first."""
    return [
        Cell(memes, prevalence, rule)
        for memes in counts
        for prevalence in _PREVALENCES
        for rule in rules
        if memes * prevalence >= _FEWEST
    ]


def table(runs: list[dict[str, Any]]) -> str:
    """One row per cell, for the shipped method. regret: of its mean AUROC, against the cell's best method."""
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
        shares = {name: _share(values, goal) for (name, values), goal in zip(met.items(), (0.9, 0.8))}
        refused = sum(one["precision"] is None for one in shipped)
        ships = sum(run["shipped"] == ENSEMBLE for run in of)
        lines.append(
            f"| {cell.memes} | {cell.prevalence} | {cell.rule} | {len(of)} | {_both(slope)} | {np.mean(gap):+.3f} | {regret:.3f} | "
            f"{np.mean(band):+.3f} | {shares['recall']} | {shares['precision']} | {refused} | {ships} |"
        )
    return "\n".join(lines)


def _both(slopes: list[float]) -> str:
    """Mean and median: with few memes the slope has outliers, which move the mean."""
    return f"{np.mean(slopes):.2f}, {np.median(slopes):.2f}" if slopes else "n/a"


def _share(reached: list[float], goal: float) -> str:
    return f"{sum(value >= goal for value in reached)} of {len(reached)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.trust", description="Check reported figures against the truth."
    )
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
