"""Tuning speed and result against a plain PyTorch loop and scikit-learn's MLPClassifier.

    python -m bench.tune    (`make bench-tune`)

On synthetic vectors of MultiOFF's size, 594 x (1024 + 768):

    same     the same trials for all: settings, folds, epochs and widths; no early stopping, no pruning
    search   the same wall time for all, each with its own Optuna study: AUROC of the result on 20,000 new memes
    default  our default study, 200 trials of 5 folds, as `make tune` runs it
"""

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from threadpoolctl import threadpool_limits

from bench.loop import Settings, perceptron_folds, plain_folds
from bench.machine import describe, print_json, say, verdict
from bench.planted import planted
from cache import cores
from head.data.features import Features
from head.data.folds import Protocol, assign_folds, members
from head.data.ranking import auroc
from head.fitting import ENSEMBLE
from head.judge.threshold import Aim
from head.model.fusion import HeadConfig
from head.model.training import TrainConfig
from head.pipeline import TuneConfig, tune
from head.search.study import ROUND, StudyConfig
from head.search.workers import open_trainer

_GOAL_RATIO, _GOAL_AUROC, _GOAL_SECONDS = 8.0, 0.005, 120.0
_MEMES, _FRESH, _FOLDS = 594, 20_000, 5
_EPOCHS = 20
# Principal components per side, one of the values in the search space.
_COMPONENTS = 64
# Workers take seconds to start, once per study, so ours trains 25 times as many trials, as in a default study.
_AGAIN = 25
_PLAIN, _PERCEPTRON = "(a) plain PyTorch loop", "(b) MLPClassifier"
_OURS, _OURS_ONE, _OURS_ALL = "(c) ours", "    ours, one job", "    ours, one job, all columns"

Shares = list[tuple[np.ndarray, np.ndarray]]


def main() -> int:
    """Measure, print a table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    features, optimum = planted(_MEMES, seed=1)
    fresh, _ = planted(_FRESH, seed=2)
    folds = assign_folds(features.label, features.copies, features.split, Protocol("kfold", _FOLDS), 0)
    same = _same(features, members(folds), args.rounds)
    found = _search(features, members(folds), fresh, args.seconds)
    whole = _default(features, fresh)
    result = {
        "benchmark": "tune",
        "machine": machine,
        "memes": _MEMES,
        "folds": _FOLDS,
        "epochs": _EPOCHS,
        "optimum": round(optimum, 4),
        "same": same,
        "search_seconds": args.seconds,
        "search": found,
        "default": whole,
    }
    result["goals"] = _goals(result)
    print(_table(result))
    print_json(result)
    return 0


def _same(features: Features, shares: Shares, rounds: int) -> dict[str, Any]:
    """Trials/s for equal work, of the fastest round, and the mean AUROC over all trials and folds."""
    trials = [
        Settings(fusion, width, batch, 1e-3, 1e-4, 0.3, _EPOCHS)
        for fusion, width, batch in itertools.product(("align", "concat"), (128, 256), (32, 64))
    ]
    contenders: dict[str, Callable[[], list[float]]] = {
        f"{_PLAIN}, {threads} thread(s)": partial(_peer, plain_folds, trials, features, shares, threads)
        for threads in sorted({1, cores()})
    }
    contenders |= {
        _PERCEPTRON: lambda: _peer(perceptron_folds, trials, features, shares, cores()),
        _OURS: lambda: _ours(trials * _AGAIN, features, shares, min(ROUND, cores()), _COMPONENTS),
        _OURS_ONE: lambda: _ours(trials, features, shares, 1, _COMPONENTS),
        _OURS_ALL: lambda: _ours(trials, features, shares, 1, 0),
    }
    counts = dict.fromkeys(contenders, len(trials)) | {_OURS: len(trials) * _AGAIN}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    means: dict[str, float] = {}
    for turn in range(rounds):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            means[name] = float(np.mean(contenders[name]()))
            seconds[name].append(time.perf_counter() - began)
            say(f"same work, {name.strip()}: {counts[name] / seconds[name][-1]:.2f} trials/s, AUROC {means[name]:.3f}")
    rates = {name: counts[name] / min(times) for name, times in seconds.items()}
    plain = max((name for name in rates if name.startswith(_PLAIN)), key=lambda name: rates[name])
    return {
        "trials": len(trials),
        "trials_per_s": {name.strip(): round(rate, 3) for name, rate in rates.items()},
        "seconds": {name.strip(): [round(one, 2) for one in times] for name, times in seconds.items()},
        "auroc": {name.strip(): round(mean, 4) for name, mean in means.items()},
        "better_plain_loop": plain,
        "ratios": {
            "c/a": round(rates[_OURS] / rates[plain], 2),
            "c/b": round(rates[_OURS] / rates[_PERCEPTRON], 2),
            "c one job/a": round(rates[_OURS_ONE] / rates[plain], 2),
            "c one job, all columns/a": round(rates[_OURS_ALL] / rates[plain], 2),
        },
        "auroc_c_minus_a": round(means[_OURS] - means[plain], 4),
    }


def _peer(
    train: Callable[..., Any], trials: list[Settings], features: Features, shares: Shares, threads: int
) -> list[float]:
    """A peer's trials under Optuna, one after another; the mean AUROC of each."""
    study = optuna.create_study(direction="maximize")
    torch.set_num_threads(threads)
    means = []
    with threadpool_limits(threads):
        for settings in trials:
            means.append(float(train(settings, features, shares)[0].mean()))
            study.tell(study.ask(), means[-1])
    return means


def _ours(trials: list[Settings], features: Features, shares: Shares, jobs: int, components: int) -> list[float]:
    """The same trials by our trainer, starting its workers included."""
    pairs = [_configs(settings, features, components) for settings in trials]
    study = optuna.create_study(direction="maximize")
    means = []
    with open_trainer(features, shares, torch.device("cpu"), jobs) as trainer:
        for _, outcome in trainer.train(pairs, lambda *_: True):
            assert outcome.auroc is not None  # there is no pruning, and at this learning rate no trial diverges
            means.append(float(outcome.auroc.mean()))
            study.tell(study.ask(), means[-1])
    return means


def _configs(settings: Settings, features: Features, components: int) -> tuple[HeadConfig, TrainConfig]:
    head = HeadConfig(
        features.image.shape[1],
        features.text.shape[1],
        settings.fusion,
        components=components,
        width=settings.width,
        hidden=settings.width,
        map_dropout=0.0,
        dropout=settings.dropout,
    )
    train = TrainConfig(
        "adamw",
        settings.learning_rate,
        settings.weight_decay,
        settings.batch_size,
        settings.epochs,
        patience=settings.patience or settings.epochs,
    )
    return head, train


def _search(features: Features, shares: Shares, fresh: Features, seconds: float) -> dict[str, Any]:
    """Results of equal wall time: number of trials, best mean AUROC, and AUROC on new memes."""
    found = {}
    for name, train in ((_PLAIN, plain_folds), (_PERCEPTRON, perceptron_folds)):
        found[name] = _peer_search(train, features, shares, fresh, seconds)
        say(f"{seconds:.0f} s of search, {name}: {found[name]}")
    found[_OURS] = _our_search(features, fresh, seconds)
    say(f"{seconds:.0f} s of search, {_OURS}: {found[_OURS]}")
    return found


def _peer_search(
    train: Callable[..., Any], features: Features, shares: Shares, fresh: Features, seconds: float
) -> dict[str, Any]:
    """A plain Optuna search: TPE and a median pruner over the folds."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=8)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    best: dict[str, Any] = {"value": -1.0}

    def objective(trial: optuna.Trial) -> float:
        settings = Settings(
            trial.suggest_categorical("fusion", ("align", "concat")),
            trial.suggest_categorical("width", (64, 128, 256)),
            trial.suggest_categorical("batch_size", (16, 32, 64, 128)),
            trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
            trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            trial.suggest_float("dropout", 0.0, 0.6),
            epochs=30,
            patience=5,
        )

        def after_fold(number: int, mean: float) -> None:
            trial.report(mean, number)
            if trial.should_prune():
                raise optuna.TrialPruned

        aurocs, score = train(settings, features, shares, after_fold)
        if aurocs.mean() > best["value"]:
            best.update(value=float(aurocs.mean()), score=score)
        return float(aurocs.mean())

    torch.set_num_threads(1)
    with threadpool_limits(1):
        study.optimize(objective, timeout=seconds)
    return {
        "trials": len(study.trials),
        "best_mean_auroc": round(best["value"], 4),
        "fresh_auroc": round(auroc(fresh.label, best["score"](fresh)) or 0.0, 4),
    }


def _our_search(features: Features, fresh: Features, seconds: float) -> dict[str, Any]:
    """As many trials as fit into `seconds`: repeated runs that continue one study."""
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as folder:
        began, trials = time.perf_counter(), 40
        last: dict[str, Any] = {}
        while True:
            tuned, spent = _tuned(features, Path(folder), trials), time.perf_counter() - began
            if spent > seconds and last:
                return last
            last = {"trials": trials, "seconds": round(spent, 1), **_worth(tuned, fresh)}
            trials += max(4, int(trials * (seconds - spent) / spent / 2))


def _default(features: Features, fresh: Features) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as folder:
        began = time.perf_counter()
        tuned = _tuned(features, Path(folder), StudyConfig("sqlite://", "x").trials)
        spent = time.perf_counter() - began
    say(f"default study: {spent:.1f} s")
    return {"trials": len(tuned.study.trials), "seconds": round(spent, 1), **_worth(tuned, fresh)}


def _tuned(features: Features, folder: Path, trials: int) -> Any:
    config = TuneConfig(
        StudyConfig(f"sqlite:///{folder / 'studies.sqlite3'}", "bench", trials),
        Protocol("kfold", _FOLDS),
        Aim(),
        jobs=min(ROUND, cores()),
    )
    return tune(features, "planted", {}, config)


def _worth(tuned: Any, fresh: Features) -> dict[str, Any]:
    score = tuned.methods[ENSEMBLE].method.score
    best = tuned.study.best(1)[0]
    return {
        "best_mean_auroc": round(best.value, 4),
        "fresh_auroc": round(auroc(fresh.label, score(fresh)) or 0.0, 4),
    }


def _goals(result: dict[str, Any]) -> dict[str, bool]:
    same = result["same"]
    return {
        "c/a": same["ratios"]["c/a"] >= _GOAL_RATIO,
        "auroc": same["auroc_c_minus_a"] >= -_GOAL_AUROC,
        "default": result["default"]["seconds"] < _GOAL_SECONDS,
    }


def _table(result: dict[str, Any]) -> str:
    same, goals = result["same"], result["goals"]
    lines = [f"{'same trials, folds, epochs, widths':40}{'trials/s':>10}{'AUROC':>8}"]
    lines += [f"{n:40}{rate:10.2f}{same['auroc'][n]:8.3f}" for n, rate in same["trials_per_s"].items()]
    lines.append(f"c/a {same['ratios']['c/a']}, goal {_GOAL_RATIO:g} or more: {verdict(goals['c/a'])}")
    lines.append(
        f"AUROC of c minus a {same['auroc_c_minus_a']:+.4f}, goal {-_GOAL_AUROC} or more: {verdict(goals['auroc'])}"
    )
    title = f"{result['search_seconds']:.0f} s of search each"
    lines.append(f"\n{title:40}{'trials':>10}{'best mean':>11}{'on new memes':>14}")
    for name, one in result["search"].items():
        lines.append(f"{name:40}{one['trials']:10}{one['best_mean_auroc']:11.3f}{one['fresh_auroc']:14.3f}")
    lines.append(f"{'label rule (upper bound)':40}{'':21}{result['optimum']:14.3f}")
    default = result["default"]
    lines.append(
        f"\ndefault study, {default['trials']} trials of {_FOLDS} folds, start to end: {default['seconds']} s, "
        f"goal under {_GOAL_SECONDS:.0f}: {verdict(goals['default'])}; AUROC on new memes {default['fresh_auroc']}"
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tune", description="Tuning speed and result against two peers."
    )
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of search for each (default: %(default)s)")
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sys.exit(main())
