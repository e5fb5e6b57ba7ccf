"""The search for a head's settings: an Optuna study that can be stopped and continued.

Sees train and validation only and refuses to be shown test memes. `python -m head tune --trials N` runs it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from head.data import Features, fingerprint
from head.fusion import FUSIONS, HeadConfig
from head.metrics import auroc
from head.train import OPTIMIZERS, Diverged, TrainConfig, predict, train_head

# Per optimizer, because its rate means something else in each. HateCLIPper's 1e-4 lies within AdamW's range; SGD wants
# large rates, since the gradient is clipped to .1.
_LEARNING_RATES = {"adamw": (3e-5, 3e-3), "adam": (3e-5, 3e-3), "sgd": (3e-2, 3.0), "rmsprop": (1e-5, 1e-3)}
# The papers map to 1024 and have thousands of memes; with hundreds that is ten times slower and no better.
_WIDTHS = (64, 128, 256)
_WIDTHS_OF_THOUSANDS = (256, 512, 1024)
_THOUSANDS = 4000
_BATCHES = (16, 32, 64, 128)
# A product starts on a plateau that a concatenation does not know: it gets this many epochs before it is judged.
_WARMUP_EPOCHS = 8
# Epochs from one look of the pruner to the next: each look writes to and reads from the disk, 10 ms.
_LOOK_EVERY = 4
# Trials that run to their end first, so that the median means something.
_STARTUP_TRIALS = 8
_FINGERPRINT = "data fingerprint"


class OtherData(ValueError):
    """A study of this name was made with other data."""


class StudyUnusable(ValueError):
    """The study's file cannot be read or written."""


@dataclass(frozen=True)
class TuneConfig:
    """storage: the SQLite file; study: its name there; trials: the wanted total, earlier runs included."""

    storage: Path
    study: str
    trials: int = 40  # a minute on two busy cores for some 500 memes
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials: expected at least 1, got {self.trials}")
        if not self.study:
            raise ValueError("study: expected a name, got an empty one")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2**32 - 1, got {self.seed}")


@dataclass(frozen=True)
class Tuned:
    """The best trial. value: its validation AUROC; history: [{"trial", "state", "value"}] of all finished trials."""

    head: HeadConfig
    train: TrainConfig
    trial: int
    value: float
    history: list[dict[str, Any]]


def tune(features: Features, spec: dict, config: TuneConfig) -> Tuned:
    """Run the study until it has `config.trials` finished trials, and return its best.

    A trial's value is its validation AUROC at the epoch with the lowest validation loss. The best of many trials is
    chosen on the memes that it is measured on, so its value is optimistic: quote the test figures. Training
    `head` with `train` on the same features gives the best trial's weights again.

    A study that has reached its total is only read. Raises OtherData; ValueError when test memes are among `features`;
    KeyboardInterrupt when stopped, the finished trials being kept.
    """
    if "test" in features.split:
        raise ValueError("tuning must not see test memes; pass features.only('train', 'validation')")
    config.storage.parent.mkdir(parents=True, exist_ok=True)
    with _opened(config) as study:
        _require_same_data(study, fingerprint(features, spec), config)
        if not study.trials:
            for recipe in _recipes(max(_widths(features))):
                study.enqueue_trial(recipe)
        _run(study, features, config)
        return _best(study)


def finished_trials(config: TuneConfig) -> int:
    """How many trials of the study are kept on disk."""
    with _opened(config) as study:
        return len(_finished(study))


@contextmanager
def _opened(config: TuneConfig) -> Iterator[optuna.Study]:
    """The study, made if it is new; Optuna's log, which would break the progress bar, is silent meanwhile."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    storage = None
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{config.storage.resolve()}")
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_EPOCHS)
        study = optuna.create_study(
            storage=storage, study_name=config.study, direction="maximize", load_if_exists=True, pruner=pruner
        )
        # A continued study must not draw its first trials' settings again, so the seed moves on with the trials.
        seed = int(np.random.SeedSequence([config.seed, len(study.trials)]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        yield study
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StudyUnusable(
            f"{config.storage}: the study's file cannot be read or written ({reason}); free the disk, mend its "
            "permissions, or move a damaged file away"
        ) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def _require_same_data(study: optuna.Study, digest: str, config: TuneConfig) -> None:
    stored = study.user_attrs.get(_FINGERPRINT)
    if stored is None:
        study.set_user_attr(_FINGERPRINT, digest)
    elif stored != digest:
        raise OtherData(
            f"study {config.study!r} in {config.storage} was made with other memes, splits or vectors "
            f"(data {stored[:12]}, now {digest[:12]}); give this one another name with --study, or delete that file"
        )


def _run(study: optuna.Study, features: Features, config: TuneConfig) -> None:
    done = len(_finished(study))
    with tqdm(total=max(config.trials, done), initial=done, desc="tuning", unit="trial", leave=False) as bar:

        def show(study: optuna.Study, _: FrozenTrial) -> None:
            if any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
                bar.set_postfix(best=f"{study.best_value:.3f}", refresh=False)
            bar.update()

        if config.trials > done:
            study.optimize(
                lambda trial: _objective(trial, features, config.seed), config.trials - done, callbacks=[show]
            )


def _objective(trial: optuna.Trial, features: Features, seed: int) -> float:
    head_config, train_config = _suggest(trial, features, seed)
    trial.set_user_attr("head", asdict(head_config))
    trial.set_user_attr("train", asdict(train_config))

    def on_epoch(epoch: int, _: float, value: float) -> None:
        if epoch % _LOOK_EVERY == 0:
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        head = train_head(head_config, train_config, features, on_epoch)
    except Diverged as error:
        raise optuna.TrialPruned from error
    validation = features.only("validation")
    return auroc(validation.label, predict(head, validation))


def _suggest(trial: optuna.Trial, features: Features, seed: int) -> tuple[HeadConfig, TrainConfig]:
    """The learning rate is drawn as a position in its optimizer's range, so that every trial has the same parameters;
    multivariate TPE draws at random what only some trials have."""
    head = HeadConfig(
        image_dim=features.image.shape[1],
        text_dim=features.text.shape[1],
        fusion=trial.suggest_categorical("fusion", FUSIONS),
        width=trial.suggest_categorical("width", _widths(features)),
        depth=trial.suggest_int("depth", 1, 3),
        hidden=trial.suggest_categorical("hidden", _widths(features)),
        map_dropout=trial.suggest_float("map_dropout", 0.0, 0.6),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
    )
    optimizer = trial.suggest_categorical("optimizer", OPTIMIZERS)
    low, high = _LEARNING_RATES[optimizer]
    train = TrainConfig(
        optimizer=optimizer,
        learning_rate=low * (high / low) ** trial.suggest_float("learning_rate_position", 0.0, 1.0),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        batch_size=trial.suggest_categorical("batch_size", _BATCHES),
        seed=seed,
    )
    return head, train


def _widths(features: Features) -> tuple[int, ...]:
    return _WIDTHS if len(features) < _THOUSANDS else _WIDTHS_OF_THOUSANDS


def _recipes(width: int) -> list[dict[str, Any]]:
    """Published settings to start from, but for the width: HateCLIPper's align, and ISSUES' combiner."""
    low, high = _LEARNING_RATES["adamw"]
    shared = {
        "width": width,
        "hidden": width,
        "depth": 1,
        "map_dropout": 0.2,
        "dropout": 0.4,
        "optimizer": "adamw",
        "learning_rate_position": float(np.log(1e-4 / low) / np.log(high / low)),
        "weight_decay": 1e-4,
        "batch_size": 32,
    }
    return [{"fusion": fusion, **shared} for fusion in ("align", "combiner")]


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count towards the total: one that was killed or stopped midway is done again."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _best(study: optuna.Study) -> Tuned:
    finished = _finished(study)
    if all(trial.state == TrialState.PRUNED for trial in finished):
        raise ValueError(f"study {study.study_name!r}: none of its {len(finished)} trials converged; add trials")
    best = study.best_trial
    history = [{"trial": trial.number, "state": trial.state.name.lower(), "value": _value(trial)} for trial in finished]
    return Tuned(
        HeadConfig(**best.user_attrs["head"]), TrainConfig(**best.user_attrs["train"]), best.number, best.value, history
    )


def _value(trial: FrozenTrial) -> float | None:
    """A finished trial's value; a pruned one's is the last that the pruner saw, if any."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return trial.intermediate_values.get(trial.last_step)
