"""The search for a head's settings: an Optuna study that can be stopped, continued and shared between machines.

Sees the memes that are tuned on and no others. `python -m head tune --trials N` runs it.
"""

import hashlib
import logging
import secrets
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError
from tqdm import tqdm

from head.model.fusion import HeadConfig
from head.model.training import TrainConfig
from head.search.space import Space
from head.search.workers import Outcome, Settings, Trainer

# Trials drawn before any of them is known. Fixed, whatever the number of workers, so that the same seed gives the same
# study on one core and on eight; more workers than this would wait.
ROUND = 8
# Epochs after which trials of a kind are compared, and the best quarter of them goes on. A product starts on a plateau that a
# concatenation does not know, hence within a kind, and not at once.
_RUNGS = (2, 5, 10)
_KEPT = 1 / 4
# Trials of a kind that pass a rung first, so that a quarter means something.
_PASSING = 2
# Trials drawn at random before the sampler begins to prefer anything, recipes included. With Optuna's ten it stayed where
# it was first lucky: on MultiOFF, 151 of 200 trials had one fusion kind.
_RANDOM_TRIALS = 40
# A server that is there answers at once; without a limit, one behind a closed firewall is waited for minutes.
_CONNECT_SECONDS = 10
# Machines that begin at once in an empty database all make its tables, and all but one are told that they are there:
# each of them once or twice, since Optuna makes some tables after others.
_OPENINGS = 5
_FINGERPRINT = "data fingerprint"


class OtherData(ValueError):
    """A study of this name was made with other data."""


class StudyUnusable(ValueError):
    """The study's storage cannot be reached, read or written."""


@dataclass(frozen=True)
class StudyConfig:
    """storage: an SQLAlchemy URL; study: its name there; trials: the wanted total, earlier runs included."""

    storage: str
    study: str
    trials: int = 200  # under two minutes on two cores for some 600 memes
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials: expected at least 1, got {self.trials}")
        if not self.study:
            raise ValueError("study: expected a name, got an empty one")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2**32 - 1, got {self.seed}")
        try:
            make_url(self.storage)
        except (ArgumentError, ValueError):  # whose messages, and what they came from, may hold a password
            got = self.storage.rpartition("@")[2]
            raise ValueError(
                f"storage: expected a URL such as postgresql://user:password@host/database, got one that ends in {got!r}"
            ) from None

    @property
    def place(self) -> str:
        """The storage as it may be shown: without its password."""
        return make_url(self.storage).render_as_string(hide_password=True)


@dataclass(frozen=True)
class Trial:
    """A finished trial. value: mean AUROC of its members, of a pruned one the last that was seen, None where there is
    none; seconds: that it took; recipe: the published settings that it is, None for what was drawn; without: of a complete
    one, for each part of the memes its value on the others."""

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
        """What the head sees, one of `Space.kinds`."""
        return self.params["kind"]


@dataclass(frozen=True)
class StudyResult:
    """trials: all that are finished, in their order; importances: {parameter: share of the value's variance}, pruned
    trials included, with the last value that was seen of them."""

    trials: list[Trial]
    importances: dict[str, float]

    def best(self, count: int, of_a_kind: int | None = None, part: int | None = None) -> list[Trial]:
        """The complete trials with the highest values, the best first; at most `of_a_kind` of one kind. part: of the memes,
        that has no say in it."""

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

    A trial's value is the mean over its members of the AUROC on the memes that each held out. The best of many is
    chosen on the memes that it is measured on, so its value is optimistic. digest: a fingerprint of the data; machines
    that work on one study at once in PostgreSQL meet the total together, and what they have in hand then is dropped.
    Raises OtherData, StudyUnusable, WorkerLost; ValueError when no trial converged; KeyboardInterrupt when stopped, all
    that was finished being kept.
    """
    with _opened(config) as shared:
        _require_same_data(shared, digest, config)
        _run(shared, space, config, trainer)
        trials = [_read(trial) for trial in shared.finished()]
        found = StudyResult(trials, _importances(shared.study, config.seed))
    if not found.best(1):
        raise ValueError(f"study {config.study!r}: none of its {len(trials)} trials converged; add trials")
    return found


def finished_trials(config: StudyConfig) -> int:
    """How many trials of the study are kept."""
    with _opened(config) as shared:
        return len(shared.finished())


class KindPruner(optuna.pruners.BasePruner):
    """Successive halving within a kind: at a rung a trial goes on if it is among the best quarter of the trials of its kind
    that came there (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020)."""

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
        return len(others) >= _PASSING and better >= max(1.0, _KEPT * (len(others) + 1))


def sampler(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE (Falkner et al., "BOHB", 2018); a study that goes on must not draw its first trials again, so
    the seed moves on with the number of trials."""
    drawn = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=drawn, n_startup_trials=_RANDOM_TRIALS, multivariate=True, constant_liar=True
        )


@dataclass(frozen=True)
class _Shared:
    """A stored study that other machines may be at work on. They take turns by PostgreSQL's advisory locks, which end
    with the connection, however a machine dies; another database has none of them, and each machine is the first."""

    study: optuna.Study
    engine: Engine

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def add(self, trial: FrozenTrial, total: int) -> bool:
        """Store a trial unless there are `total` already; whether it was stored."""
        with self.engine.begin() as connection:
            self._lock(connection, "pg_advisory_xact_lock", "turn")
            room = len(self.finished()) < total
            if room:
                self.study.add_trial(trial)
        return room

    @contextmanager
    def first(self) -> Iterator[bool]:
        """Whether no other machine was at work on the study when this one began."""
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield self._lock(connection, "pg_try_advisory_lock", "first")
        finally:
            connection.invalidate()  # which, unlike close(), says nothing to a server that is gone
            connection.close()

    def _lock(self, connection: Connection, function: str, purpose: str) -> bool:
        if self.engine.dialect.name != "postgresql":
            return True
        digest = hashlib.sha256(f"{purpose} {self.study.study_name}".encode()).digest()
        key = int.from_bytes(digest[:8], signed=True)  # such a lock has a number for a name
        return connection.scalar(text(f"SELECT {function}(:key)"), {"key": key}) is not False  # void: it has waited


@contextmanager
def _opened(config: StudyConfig) -> Iterator[_Shared]:
    """The study, made if it is new; Optuna's log, which would break the progress bar, is silent meanwhile."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    storage = None
    try:
        storage = _storage(config)
        study = optuna.create_study(
            storage=storage, study_name=config.study, direction="maximize", load_if_exists=True, sampler=None
        )
        yield _Shared(study, storage.engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error  # Optuna's own words guess at it, and wrongly
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise StudyUnusable(
            f"{config.place}: the study's storage cannot be reached, read or written ({reason}); see that the server "
            "runs and lets you in, or for a file, free the disk, mend its permissions, or move a damaged one away"
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


def _require_same_data(shared: _Shared, digest: str, config: StudyConfig) -> None:
    study = shared.study
    if _FINGERPRINT not in study.user_attrs and not shared.finished():
        study.set_user_attr(_FINGERPRINT, digest)
    stored = study.user_attrs.get(_FINGERPRINT, "unknown")  # another machine may have been first
    if stored != digest:
        raise OtherData(
            f"study {config.study!r} in {config.place} was made with other memes, splits, vectors, folds or seed "
            f"(data {stored[:12]}, now {digest[:12]}); give this one another name with --study"
        )


def _run(shared: _Shared, space: Space, config: StudyConfig, trainer: Trainer) -> None:
    """Rounds of trials. They are drawn and judged in memory and written when they are finished: a suggestion that goes
    through a database costs more than an epoch of training. So machines do not see what others have in hand, and only
    the first at work draws the recipes, and from the study's own seed; the others draw from seeds of their own."""
    memory = optuna.create_study(direction="maximize", pruner=KindPruner())
    known = _take_in(shared, memory, set())
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
            # the sampler alone would hardly look at most kinds: all random trials, then every other one, are dealt
            others = wanted - len(missing)
            dealt = others if len(known) < _RANDOM_TRIALS else others // 2
            for kind in _least_tried(space.kinds, memory, seed)[:dealt]:
                memory.enqueue_trial({"kind": kind})
            trials = [memory.ask() for _ in range(wanted)]
            settings = [space.suggest(trial, config.seed, at < len(missing)) for at, trial in enumerate(trials)]
            added = _round(shared, memory, trials, settings, missing, trainer, config.trials)
            before, known = len(known), _take_in(shared, memory, known)
            if len(known) > before + added and seed == config.seed:
                # Another process is at work: from the same seed and number of trials, both would draw the same.
                seed = secrets.randbits(32)
            bar.set_postfix(best=_best_so_far(memory), refresh=False)
            bar.update(len(known) - bar.n)


def _least_tried(kinds: Sequence[str], study: optuna.Study, seed: int) -> list[str]:
    """The kinds, those with the fewest trials first; of equals in an order that the seed gives."""
    tried = Counter(trial.params.get("kind") for trial in study.get_trials(deepcopy=False))
    order = np.random.default_rng(seed).permutation(len(kinds))
    return sorted((kinds[at] for at in order), key=lambda kind: tried[kind])


def _missing(recipes: dict[str, dict[str, Any]], study: optuna.Study) -> list[str]:
    tried = [trial.params for trial in study.get_trials(deepcopy=False)]
    return [name for name, params in recipes.items() if params not in tried]


def _take_in(shared: _Shared, memory: optuna.Study, known: set[int]) -> set[int]:
    """Show the finished trials that the storage has gained to the study in memory; the numbers of all there are."""
    finished = {trial.number: trial for trial in shared.finished()}
    memory.add_trials(finished[number] for number in sorted(finished.keys() - known))
    return known | finished.keys()


def _round(
    shared: _Shared,
    memory: optuna.Study,
    trials: list[optuna.Trial],
    settings: list[Settings],
    recipes: Sequence[str],
    trainer: Trainer,
    total: int,
) -> int:
    """Train what was drawn and store it, up to `total` trials of all machines, in the order in which it was drawn; where
    the round is interrupted, all that had ended by then. Returns how many were stored. The first of them are recipes,
    which are not pruned."""
    ended: dict[int, FrozenTrial] = {}
    stored: list[bool] = []

    def go_on(number: int, epoch: int, value: float) -> bool:
        trials[number].report(value, epoch)
        return all(stored) and (number < len(recipes) or not trials[number].should_prune())

    try:
        for number, outcome in trainer.train(settings, go_on):
            drawn = memory.get_trials(deepcopy=False)[trials[number].number]
            recipe = recipes[number] if number < len(recipes) else None
            ended[number] = _finish(drawn, settings[number], outcome, recipe)
            while len(stored) in ended:
                stored.append(shared.add(ended.pop(len(stored)), total))
    finally:
        for trial in trials:  # their stored twins are what the study in memory learns from
            memory.tell(trial, state=TrialState.FAIL)
        stored += [shared.add(ended[number], total) for number in sorted(ended)]
    return sum(stored)


def _finish(drawn: FrozenTrial, settings: Settings, outcome: Outcome, recipe: str | None) -> FrozenTrial:
    value = None if outcome.auroc is None else float(outcome.auroc.mean())
    return create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values=drawn.intermediate_values,
        user_attrs={
            "head": asdict(settings[0]),
            "train": asdict(settings[1]),
            "seconds": outcome.seconds,
            "recipe": recipe,
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
    2001); {} where trials are too few or alike. fANOVA, which says the same, takes minutes for as many kinds.

    A pruned trial counts with the last value that was seen of it: survivors alone say what matters among the good.
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
