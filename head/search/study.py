"""The search for a head's settings: an Optuna study that can be interrupted, resumed and shared between machines."""

import hashlib
import logging
import secrets
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from tqdm import tqdm

from head.model.fusion import HeadConfig
from head.model.training import TrainConfig
from head.search.config import StudyConfig
from head.search.space import Space
from head.search.workers import Outcome, Settings, Trainer

# Trials sampled before the value of any is known. Fixed, whatever the number of workers, so that the same seed gives the same
# study on one core and on eight; more workers than this would idle.
ROUND = 8
# Epochs after which trials of a kind are compared and the best quarter continues. Heads on products start on a loss plateau
# and heads on concatenations do not, hence comparison within a kind, and not at epoch 1.
_RUNGS = (2, 5, 10)
_SURVIVING = 1 / 4
# Trials of a kind that pass a rung without comparison.
_UNPRUNED = 2
# Random trials before TPE starts, recipes included. With Optuna's default of ten it settled too early: on MultiOFF, 151 of
# 200 trials had one kind of fusion.
_RANDOM_TRIALS = 40
# A running server answers at once; without a timeout, a connection that a firewall drops takes minutes to fail.
_CONNECT_SECONDS = 10
# Attempts to open the storage: machines that start together in an empty database race to create its tables, and all but
# one get an error, up to twice, since Optuna creates tables in stages.
_OPENINGS = 5
_FINGERPRINT = "data fingerprint"


class OtherData(ValueError):
    """A study of this name has trials on other data."""


class StudyUnusable(ValueError):
    """The study's storage cannot be reached, read or written."""


@dataclass(frozen=True)
class Trial:
    """A finished trial. value: mean AUROC of its members on held-out memes, the last intermediate one of a pruned trial, None
    if there is none; recipe: name of its published settings, None if sampled; without: of a complete trial, for each part
    of the memes its value on the other parts."""

    number: int
    complete: bool
    value: float | None
    head: HeadConfig
    train: TrainConfig
    params: dict[str, Any]
    seconds: float
    recipe: str | None = None
    without: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """Kind of the head's inputs, one of `Space.kinds`."""
        return self.params["kind"]


@dataclass(frozen=True)
class StudyResult:
    """trials: all finished ones, by number; importances: {parameter: share of the values' variance}, pruned trials included
    with their last intermediate value."""

    trials: list[Trial]
    importances: dict[str, float]

    def best(self, count: int, of_a_kind: int | None = None, part: int | None = None) -> list[Trial]:
        """The `count` complete trials with the highest values, the best first; at most `of_a_kind` of one kind. part: of the
        memes, to leave out of the values."""

        def worth(trial: Trial) -> float:
            return (trial.value or 0.0) if part is None else trial.without[part]

        complete = [trial for trial in self.trials if trial.complete and trial.value is not None]
        ranked = sorted(complete, key=lambda trial: (-worth(trial), trial.number))
        kinds: Counter[str] = Counter()
        chosen = []
        for trial in ranked:
            kinds[trial.kind] += 1
            if of_a_kind is None or kinds[trial.kind] <= of_a_kind:
                chosen.append(trial)
        return chosen[:count]


def search(space: Space, digest: str, config: StudyConfig, trainer: Trainer) -> StudyResult:
    """Run the study until it has `config.trials` finished trials; a study that has them is only read.

    A trial's value is the mean over its members of the AUROC on held-out memes; the maximum over trials is optimistic,
    since it is selected on the same memes. digest: of the data, stored with the study. Machines that share a study in
    PostgreSQL reach the total together; trials running then are dropped. Raises OtherData, StudyUnusable, WorkerLost;
    ValueError if no trial converged; KeyboardInterrupt, with all finished trials stored.
    """
    with _open_study(config) as shared:
        _require_same_data(shared, digest, config)
        _run(shared, space, config, trainer)
        trials = [_read(trial) for trial in shared.finished()]
        result = StudyResult(trials, _importances(shared.study, config.seed))
    if not result.best(1):
        raise ValueError(f"study {config.study!r}: none of its {len(trials)} trials converged; add trials")
    return result


def finished_trials(config: StudyConfig) -> int:
    """Number of finished trials in the storage. Raises StudyUnusable."""
    with _open_study(config) as shared:
        return len(shared.finished())


class KindPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving within a kind (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
    2020): at a rung a trial continues if it is in the best quarter of the trials of its kind that reached it."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step, kind = trial.last_step, trial.params["kind"]
        if step not in _RUNGS:
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        others = [
            other.intermediate_values[step]
            for other in finished
            if other.params["kind"] == kind and step in other.intermediate_values
        ]
        better = sum(value > trial.intermediate_values[step] for value in others)
        return len(others) >= _UNPRUNED and better >= max(1.0, _SURVIVING * (len(others) + 1))


def sampler(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE (Falkner et al., "BOHB", 2018). The seed depends on the number of trials, so that a resumed study does
    not repeat its first ones."""
    drawn = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=drawn, n_startup_trials=_RANDOM_TRIALS, multivariate=True, constant_liar=True
        )


@dataclass(frozen=True)
class _SharedStudy:
    """A stored study that other machines may work on. They synchronise by PostgreSQL's advisory locks, which end with the
    connection, however a machine dies; in other databases there are none, and each machine is the first."""

    study: optuna.Study
    engine: Engine

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def add(self, trial: FrozenTrial, total: int) -> bool:
        """Store a trial unless `total` are stored already; returns whether it was stored."""
        with self.engine.begin() as connection:
            self._lock(connection, "pg_advisory_xact_lock", "turn")
            room = len(self.finished()) < total
            if room:
                self.study.add_trial(trial)
        return room

    @contextmanager
    def first(self) -> Iterator[bool]:
        """Yields whether this is the first machine that works on the study at present."""
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield self._lock(connection, "pg_try_advisory_lock", "first")
        finally:
            connection.invalidate()  # unlike close(), sends nothing to a server that may be gone
            connection.close()

    def _lock(self, connection: Connection, function: str, purpose: str) -> bool:
        if self.engine.dialect.name != "postgresql":
            return True
        digest = hashlib.sha256(f"{purpose} {self.study.study_name}".encode()).digest()
        key = int.from_bytes(digest[:8], signed=True)  # lock names are integers
        return (
            connection.scalar(text(f"SELECT {function}(:key)"), {"key": key}) is not False
        )  # None: a blocking lock, acquired


@contextmanager
def _open_study(config: StudyConfig) -> Iterator[_SharedStudy]:
    """The study, created if new. Silences Optuna's log, which would break the progress bar. Raises StudyUnusable."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    storage = None
    try:
        storage = _storage(config)
        study = optuna.create_study(
            storage=storage, study_name=config.study, direction="maximize", load_if_exists=True, sampler=None
        )
        yield _SharedStudy(study, storage.engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error  # Optuna's own message is a wrong guess
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise StudyUnusable(
            f"{config.place}: the study's storage cannot be reached, read or written ({reason}); check that the server "
            "runs and accepts the user, or of a file, the disk space and permissions; move a damaged file away"
        ) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def _storage(config: StudyConfig) -> optuna.storages.RDBStorage:
    limited = make_url(config.storage).get_driver_name() in ("psycopg", "psycopg2")
    settings = {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_SECONDS}} if limited else {}
    for _ in range(_OPENINGS - 1):
        with suppress(ProgrammingError, IntegrityError):
            return optuna.storages.RDBStorage(config.storage, settings)
    return optuna.storages.RDBStorage(config.storage, settings)


def _require_same_data(shared: _SharedStudy, digest: str, config: StudyConfig) -> None:
    study = shared.study
    if _FINGERPRINT not in study.user_attrs and not shared.finished():
        study.set_user_attr(_FINGERPRINT, digest)
    stored = study.user_attrs.get(_FINGERPRINT, "unknown")  # another machine may have set it first
    if stored != digest:
        raise OtherData(
            f"study {config.study!r} in {config.place} was made with other memes, splits, vectors, folds or seed "
            f"(data {stored[:12]}, now {digest[:12]}); choose another name with --study"
        )


def _run(shared: _SharedStudy, space: Space, config: StudyConfig, trainer: Trainer) -> None:
    """Run rounds of trials. They are sampled and pruned in memory and stored when finished: sampling through a database costs
    more than an epoch of training. So machines do not see each other's running trials; only the first one runs the
    recipes and uses the study's seed, the others use random seeds."""
    memory = optuna.create_study(direction="maximize", pruner=KindPruner())
    known = _sync(shared, memory, set())
    recipes = space.recipes()
    with (
        shared.first() as first,
        tqdm(total=max(config.trials, len(known)), initial=len(known), desc="tuning", unit="trial") as bar,
    ):
        seed = config.seed if first else secrets.randbits(32)
        while len(known) < config.trials:
            memory.sampler = sampler(seed, len(known))
            wanted = min(ROUND, config.trials - len(known))
            missing = _missing(recipes, memory)[: wanted if first else 0]
            for name in missing:
                memory.enqueue_trial(recipes[name])
            # TPE alone would hardly try most kinds: all random trials, then half of the rest, take the least tried ones
            others = wanted - len(missing)
            balanced = others if len(known) < _RANDOM_TRIALS else others // 2
            for kind in _least_tried(space.kinds, memory, seed)[:balanced]:
                memory.enqueue_trial({"kind": kind})
            asked = [memory.ask() for _ in range(wanted)]
            sampled = [
                _Sampled(trial, space.suggest(trial, config.seed, recipe is not None), recipe)
                for trial, recipe in zip_longest(asked, missing)
            ]
            added = _round(shared, memory, sampled, trainer, config.trials)
            before, known = len(known), _sync(shared, memory, known)
            if len(known) > before + added and seed == config.seed:
                # Another process works on the study: with equal seeds and numbers of trials both would sample the same.
                seed = secrets.randbits(32)
            bar.set_postfix(best=_best_so_far(memory), refresh=False)
            bar.update(len(known) - bar.n)


def _least_tried(kinds: Sequence[str], study: optuna.Study, seed: int) -> list[str]:
    """The kinds, fewest trials first; ties in an order drawn from the seed."""
    tried = Counter(trial.params.get("kind") for trial in study.get_trials(deepcopy=False))
    order = np.random.default_rng(seed).permutation(len(kinds))
    return sorted((kinds[at] for at in order), key=lambda kind: tried[kind])


def _missing(recipes: dict[str, dict[str, Any]], study: optuna.Study) -> list[str]:
    tried = [trial.params for trial in study.get_trials(deepcopy=False)]
    return [name for name, params in recipes.items() if params not in tried]


def _sync(shared: _SharedStudy, memory: optuna.Study, known: set[int]) -> set[int]:
    """Copy newly stored trials into the study in memory; the numbers of all stored ones."""
    finished = {trial.number: trial for trial in shared.finished()}
    memory.add_trials(finished[number] for number in sorted(finished.keys() - known))
    return known | finished.keys()


@dataclass(frozen=True)
class _Sampled:
    """A trial of a round: its settings, and the name of its recipe, None if sampled."""

    trial: optuna.Trial
    settings: Settings
    recipe: str | None


def _round(
    shared: _SharedStudy, memory: optuna.Study, sampled: Sequence[_Sampled], trainer: Trainer, total: int
) -> int:
    """Train a round and store its trials in the order sampled, up to `total` of all machines; if interrupted, those that had
    finished. Returns how many were stored. Recipes are not pruned."""
    finished: dict[int, FrozenTrial] = {}
    stored: list[bool] = []

    def go_on(number: int, epoch: int, value: float) -> bool:
        sampled[number].trial.report(value, epoch)
        return all(stored) and (sampled[number].recipe is not None or not sampled[number].trial.should_prune())

    try:
        for number, outcome in trainer.train([one.settings for one in sampled], go_on):
            drawn = memory.get_trials(deepcopy=False)[sampled[number].trial.number]
            finished[number] = _finish(drawn, sampled[number], outcome)
            while len(stored) in finished:
                stored.append(shared.add(finished.pop(len(stored)), total))
    finally:
        for one in sampled:  # the study in memory learns from the stored copies instead
            memory.tell(one.trial, state=TrialState.FAIL)
        stored += [shared.add(finished[number], total) for number in sorted(finished)]
    return sum(stored)


def _finish(drawn: FrozenTrial, sampled: _Sampled, outcome: Outcome) -> FrozenTrial:
    value = None if outcome.auroc is None else float(outcome.auroc.mean())
    return create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values=drawn.intermediate_values,
        user_attrs={
            "head": asdict(sampled.settings[0]),
            "train": asdict(sampled.settings[1]),
            "seconds": outcome.seconds,
            "recipe": sampled.recipe,
            "without": outcome.without.tolist(),
        },
    )


def _read(trial: FrozenTrial) -> Trial:
    complete, last = trial.state == TrialState.COMPLETE, trial.last_step
    seen = None if last is None else trial.intermediate_values[last]
    return Trial(
        trial.number,
        complete,
        trial.value if complete else seen,
        HeadConfig(**trial.user_attrs["head"]),
        TrainConfig.from_dict(trial.user_attrs["train"]),
        trial.params,
        trial.user_attrs["seconds"],
        trial.user_attrs["recipe"],
        tuple(trial.user_attrs["without"]),
    )


def _best_so_far(study: optuna.Study) -> str:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.value for trial in complete if trial.value is not None]
    return f"{max(values):.3f}" if values else "none"


def _importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """Share of the values' variance by parameter: a random forest's mean decrease in impurity (Breiman, "Random Forests",
    2001); {} where trials are too few or have one value. fANOVA gives similar shares and takes minutes.

    Pruned trials count with their last intermediate value: complete trials alone would show what matters among the good.
    """
    seen = optuna.create_study(direction="maximize")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        value = _read(trial).value
        if value is not None:
            seen.add_trial(create_trial(value=value, params=trial.params, distributions=trial.distributions))
    if len({trial.value for trial in seen.get_trials(deepcopy=False)}) < 2:
        return {}
    evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=seed)
    try:
        importances = optuna.importance.get_param_importances(seen, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return {}
    return {name: float(share) for name, share in importances.items()}
