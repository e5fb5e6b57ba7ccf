import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import postgresql
import psycopg
import pytest
from fakes import interrupted, planted_features, write_features
from machine import PATIENCE
from quick import quick_tuning
from sqlalchemy.exc import OperationalError, ProgrammingError

from head.data.folds import Protocol, assign_folds, members
from head.search import study as searching
from head.search import workers
from head.search.space import Space
from head.search.study import OtherData, StudyConfig, StudyResult, StudyUnusable, finished_trials, search
from head.search.workers import GoOn, Outcome, Settings, open_trainer

DIMS = {"image_dim": 8, "text_dim": 6, "joint": 4}
SPACE = Space(DIMS, 120)
DIGEST = "0123456789abcdef"
RUNG = searching._RUNGS[0]


@dataclass
class Rehearsal:
    """A trainer without training: `auroc` says after each of 12 epochs what a setting has reached, None that it
    diverges; `trained` holds the settings that came."""

    auroc: Callable[[Settings, int], float | None] = lambda settings, epoch: 0.5 + settings[0].dropout / 10
    trained: list[Settings] = field(default_factory=list)

    def train(self, settings: Sequence[Settings], go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        for number, one in enumerate(settings):
            self.trained.append(one)
            yield number, self._outcome(one, lambda epoch, value, n=number: go_on(n, epoch, value))

    def _outcome(self, settings: Settings, go_on: Callable[[int, float], bool]) -> Outcome:
        for epoch in range(12):
            value = self.auroc(settings, epoch)
            if value is None or not go_on(epoch, value):
                return Outcome(None, np.empty(0), 0.1)
        return Outcome(np.array([value - 0.01, value + 0.01]), np.array([1 - value, value]), 0.1)


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    if "importances" not in request.node.name:  # they take longer than the rest
        monkeypatch.setattr(searching, "_importances", lambda *_: {})


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    return StudyConfig(f"sqlite:///{tmp_path / 'studies.sqlite3'}", "memes", trials=3)


def stored(config: StudyConfig) -> list[optuna.trial.FrozenTrial]:
    """The study as Optuna reads it."""
    optuna.logging.set_verbosity(logging.ERROR)
    storage = optuna.storages.RDBStorage(config.storage)
    try:
        return optuna.load_study(study_name=config.study, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def found_by(config: StudyConfig, jobs: int = 1) -> list[tuple[int, float | None, dict]]:
    """The trials of a small study that trains."""
    features = planted_features(120)
    shares = members(assign_folds(features.label, features.copies, features.split, Protocol("kfold", 2), 0))
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch, (8, 16))
        space = Space(DIMS, 120)
    with open_trainer(features, shares, "cpu", jobs) as trainer:
        found = search(space, DIGEST, config, trainer)
    return [(trial.number, trial.value, trial.params) for trial in found.trials]


def test_the_published_recipes_come_first(config):
    trainer = Rehearsal()
    found = search(SPACE, DIGEST, replace(config, trials=8), trainer)
    recipes = list(SPACE.recipes().values())
    assert [trial.params for trial in found.trials[: len(recipes)]] == recipes
    assert found.trials[6].params not in recipes and len(trainer.trained) == 8
    # fewer trials than recipes are the first recipes
    assert [trial.params for trial in search(SPACE, DIGEST, replace(config, study="b"), trainer).trials] == recipes[:3]


@dataclass
class Disordered(Rehearsal):
    """Its third training ends before its first, and then it is stopped."""

    def train(self, settings: Sequence[Settings], go_on: GoOn) -> Iterator[tuple[int, Outcome]]:
        outcomes = list(super().train(settings, go_on))
        yield from (outcomes[2], outcomes[0])
        raise KeyboardInterrupt


def test_each_recipe_is_tried_once_even_if_a_stopped_run_tried_them_out_of_order(config):
    recipes = list(SPACE.recipes().values())
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, DIGEST, replace(config, trials=9), Disordered())
    assert [trial.params for trial in stored(config)] == [recipes[0], recipes[2]]
    tried = [trial.params for trial in search(SPACE, DIGEST, replace(config, trials=9), Rehearsal()).trials]
    assert [tried.count(recipe) for recipe in recipes] == [1] * len(recipes) and len(tried) == 9


def test_a_trial_is_kept_with_all_that_makes_its_head_again(config):
    trainer = Rehearsal()
    found = search(SPACE, DIGEST, config, trainer)
    assert [(trial.head, trial.train) for trial in found.trials] == trainer.trained
    assert found.trials[0].value == pytest.approx(0.54) and found.trials[0].seconds == 0.1
    assert [trial.number for trial in found.best(2)] == [0, 2]  # of equals the first; the probe has no dropout


def test_the_total_counts_earlier_runs_and_a_reached_total_trains_nothing(config):
    first = search(SPACE, DIGEST, config, Rehearsal())
    trainer = Rehearsal()
    again = search(SPACE, DIGEST, replace(config, trials=9), trainer)
    assert len(trainer.trained) == 6 and again.trials[:3] == first.trials
    assert [trial.number for trial in again.trials] == list(range(9)) and finished_trials(config) == 9
    silent = Rehearsal()
    assert search(SPACE, DIGEST, replace(config, trials=9), silent) == again
    assert len(search(SPACE, DIGEST, config, silent).trials) == 9 and not silent.trained


def test_a_continued_study_does_not_repeat_its_draws(config):
    for total in (8, 10, 14, 15):
        found = search(SPACE, DIGEST, replace(config, trials=total), Rehearsal())
    decays = [trial.params["weight_decay"] for trial in found.trials[len(SPACE.recipes()) :]]
    assert len(set(decays)) == len(decays) == 9


def test_the_same_seed_searches_alike(config, tmp_path):
    other = replace(config, storage=f"sqlite:///{tmp_path / 'other.sqlite3'}")
    first, second, third = (
        search(SPACE, DIGEST, replace(given, trials=16), Rehearsal())
        for given in (config, other, replace(other, seed=1, study="third"))
    )
    assert first == second
    assert first.trials[7].params != third.trials[7].params


def test_one_worker_and_two_find_the_same_study(config):
    alone, again = (found_by(replace(config, study=name, trials=6)) for name in ("alone", "again"))
    assert alone == again and len(alone) == 6
    assert found_by(replace(config, study="two", trials=6), jobs=2) == alone


@pytest.mark.parametrize("at", [1, 3, 6])
def test_ctrl_c_keeps_what_ended_and_the_next_run_goes_on(config, monkeypatch, at):
    stopped, _ = interrupted(workers.train_head, at)  # number 3 is in the middle of a round, 6 of the second
    with monkeypatch.context() as patch:
        patch.setattr(workers, "train_head", stopped)
        with pytest.raises(KeyboardInterrupt):
            found_by(replace(config, trials=7))
    assert [trial.state.name for trial in stored(config)] == ["COMPLETE"] * (at - 1)
    assert finished_trials(config) == at - 1
    rest = found_by(replace(config, trials=7))
    assert [number for number, _, _ in rest] == list(range(7))
    assert rest[: at - 1] == [(trial.number, trial.value, trial.params) for trial in stored(config)[: at - 1]]


def test_trials_are_pruned_beside_their_own_kind_with_what_was_seen_of_them(config, monkeypatch):
    monkeypatch.setattr(searching, "_least_tried", lambda *_: ["text"] * 8)
    values = iter(np.linspace(0.9, 0.4, 100))
    own: dict[int, float] = {}

    def auroc(settings: Settings, epoch: int) -> float:
        if settings[0].fusion != "text":
            return 0.99  # another kind, which starts better, prunes nothing
        return own.setdefault(id(settings), next(values)) + epoch / 100

    found = search(SPACE, DIGEST, replace(config, trials=12), Rehearsal(auroc))
    # the recipes run to their end; of a kind two pass first, then only who is among the best quarter
    assert [trial.complete for trial in found.trials] == [True] * 8 + [False] * 4
    last = stored(config)[11]
    assert last.state == optuna.trial.TrialState.PRUNED and list(last.intermediate_values) == list(range(RUNG + 1))
    assert found.trials[11].value == last.intermediate_values[RUNG]
    assert not {8, 9, 10, 11} & {trial.number for trial in found.best(13)}


@pytest.mark.parametrize(("others", "pruned"), [([0.9], False), ([0.9, 0.9], True), ([0.9, 0.1], True)])
def test_a_trial_passes_a_rung_if_it_is_among_the_best_quarter_of_its_kind(others, pruned):
    study = optuna.create_study(direction="maximize", pruner=searching.KindPruner())
    kinds = optuna.distributions.CategoricalDistribution(["align", "text"])
    for kind, value in [*(("align", value) for value in others), *[("text", 0.99)] * 9]:
        study.add_trial(
            optuna.trial.create_trial(
                value=value, params={"kind": kind}, distributions={"kind": kinds}, intermediate_values={RUNG: value}
            )
        )
    study.enqueue_trial({"kind": "align"})
    trial = study.ask({"kind": kinds})
    for epoch in range(RUNG + 1):
        assert not trial.should_prune()
        trial.report(0.5, epoch)
    assert trial.should_prune() == pruned


def test_every_kind_is_tried_early_and_every_other_trial_goes_to_the_least_tried(config):
    found = search(
        SPACE, DIGEST, replace(config, trials=80), Rehearsal(lambda s, e: 0.9 if s[0].fusion == "text" else 0.6)
    )
    kinds = [trial.kind for trial in found.trials]
    assert set(kinds[:40]) == set(SPACE.kinds)
    assert min(kinds.count(kind) for kind in SPACE.kinds) >= 3


def test_recipes_train_until_they_converge_and_are_not_pruned(config):
    trainer = Rehearsal(lambda settings, epoch: 0.5 - epoch / 100)
    found = search(SPACE, DIGEST, replace(config, trials=8), trainer)
    assert [train.max_epochs for _, train in trainer.trained] == [240] * 6 + [30] * 2
    assert all(trial.complete for trial in found.trials[:6])


def test_a_training_that_diverges_is_pruned_and_the_search_goes_on(config):
    trainer = Rehearsal(lambda settings, epoch: None if settings[0].fusion == "linear" else 0.6)
    found = search(SPACE, DIGEST, config, trainer)
    assert [(trial.complete, trial.value) for trial in found.trials] == [(True, 0.6), (False, None), (True, 0.6)]
    assert stored(config)[1].state == optuna.trial.TrialState.PRUNED


def test_a_study_in_which_nothing_converges_says_so_and_can_be_continued(config):
    with pytest.raises(ValueError, match="'memes': none of its 3 trials converged; add trials"):
        search(SPACE, DIGEST, config, Rehearsal(lambda settings, epoch: None))
    assert len(search(SPACE, DIGEST, replace(config, trials=4), Rehearsal()).best(9)) == 1


def test_importances_are_shares_and_empty_where_all_trials_are_alike(config):
    found = search(SPACE, DIGEST, replace(config, trials=30), Rehearsal())
    assert sum(found.importances.values()) == pytest.approx(1)
    assert max(found.importances, key=found.importances.__getitem__) == "dropout"
    alike = search(SPACE, DIGEST, replace(config, study="b"), Rehearsal(lambda settings, epoch: 0.5))
    assert alike.importances == {}


def test_importances_count_pruned_trials(config):
    """Where all that survives is of one kind of loss, survivors alone would call the loss unimportant."""
    found = search(
        SPACE, DIGEST, replace(config, trials=60), Rehearsal(lambda s, e: 0.9 if s[1].loss.kind == "bce" else 0.5)
    )
    assert max(found.importances, key=found.importances.__getitem__) == "loss"


def test_the_best_are_the_complete_ones_by_value_then_by_number():
    trials = search_result((0, True, 0.5), (1, True, 0.7), (2, False, 0.9), (3, True, 0.7), (4, False, None))
    assert [trial.number for trial in StudyResult(trials, {}).best(3)] == [1, 3, 0]
    assert [trial.number for trial in StudyResult(trials, {}).best(3, of_a_kind=1)] == [1, 0]


def search_result(*rows: tuple[int, bool, float | None]) -> list[searching.Trial]:
    return [
        searching.Trial(number, complete, value, None, None, {"kind": "odd" if number % 2 else "even"}, 1.0)
        for number, complete, value in rows
    ]


def test_a_study_of_other_data_is_refused_and_says_what_to_do(config):
    first = search(SPACE, DIGEST, config, Rehearsal())
    with pytest.raises(OtherData, match="study 'memes' in sqlite.*other memes, splits.*another name with --study"):
        search(SPACE, "another digest", config, Rehearsal())
    assert len(search(SPACE, "another digest", replace(config, study="second"), Rehearsal()).trials) == 3
    assert search(SPACE, DIGEST, config, Rehearsal()) == first


def test_trials_that_someone_else_made_under_this_name_are_refused(config):
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(storage=config.storage, study_name="memes", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(OtherData, match="another name with --study"):
        search(SPACE, DIGEST, config, Rehearsal())


def test_optuna_is_as_talkative_afterwards_as_before(config):
    optuna.logging.set_verbosity(logging.INFO)
    search(SPACE, DIGEST, config, Rehearsal())
    assert optuna.logging.get_verbosity() == logging.INFO


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"study": ""}, {"seed": -1}, {"seed": 2**32}, {"storage": "studies.sqlite3"}]
)
def test_impossible_settings_are_refused_by_name(config, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(config, **wrong)


PASSWORD = "hunter2"


@pytest.mark.parametrize(
    "storage",
    ["postgresql//me:hunter2@host/studies", "postgresql://me:hunter2@host:port/studies", "me:hunter2@host", ""],
)
def test_a_storage_that_is_no_url_is_refused_without_its_password(config, storage):
    with pytest.raises(ValueError, match="expected a URL such as postgresql://user:password@host/database") as caught:
        replace(config, storage=storage)
    assert PASSWORD not in str(caught.value)


def _closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sqlite:///{tmp}/nowhere/studies.sqlite3", "unable to open database file"),
        ("sqlite:///{tmp}", "unable to open database file"),
        ("sqlite:///{tmp}/damaged.sqlite3", "file is not a database"),
        ("postgresql://me:hunter2@127.0.0.1:{port}/studies", "[Cc]onnection refused"),
        ("postgresql://me:hunter2@no.such.host.invalid/studies", "resolve"),
        ("firebird://me:hunter2@host/studies", "firebird"),
        ("mysql://me:hunter2@host/studies", "MySQLdb|[Dd]river|DB access module"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence_without_its_password(tmp_path, config, storage, reason):
    (tmp_path / "damaged.sqlite3").write_bytes(b"no database at all" * 100)
    storage = storage.format(tmp=tmp_path, port=_closed_port())
    with pytest.raises(StudyUnusable, match=rf"the study's storage cannot be reached.*{reason}") as caught:
        search(SPACE, DIGEST, replace(config, storage=storage), Rehearsal())
    said = str(caught.value)
    assert "\n" not in said and PASSWORD not in said and said.startswith(storage.split(":")[0])


def test_a_server_that_never_answers_is_given_up(config, monkeypatch):
    monkeypatch.setattr(searching, "_CONNECT_SECONDS", 2)  # the least that libpq takes
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        storage = f"postgresql://me:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/studies"
        with pytest.raises(StudyUnusable, match="timeout|timed out") as caught:
            search(SPACE, DIGEST, replace(config, storage=storage), Rehearsal())
    assert PASSWORD not in str(caught.value)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as folder:
        yield folder


def test_a_study_in_postgresql_goes_on_is_refused_for_other_data_and_equals_one_in_a_file(server, config):
    shared = replace(config, storage=postgresql.new_database(server, "alone"))
    first = search(SPACE, DIGEST, shared, Rehearsal())
    again = search(SPACE, DIGEST, replace(shared, trials=9), Rehearsal())
    assert again.trials[:3] == first.trials and len(again.trials) == finished_trials(shared) == 9
    with pytest.raises(OtherData, match="another name with --study"):
        search(SPACE, "another digest", shared, Rehearsal())
    search(SPACE, DIGEST, config, Rehearsal())
    assert search(SPACE, DIGEST, replace(config, trials=9), Rehearsal()).trials == again.trials


def test_ctrl_c_keeps_what_ended_in_postgresql_too(server, config):
    shared = replace(config, storage=postgresql.new_database(server, "stopped"), trials=7)

    def stop_in_the_second_round(settings: Settings, epoch: int) -> float:
        if len(trainer.trained) == 6:
            raise KeyboardInterrupt
        return 0.6

    trainer = Rehearsal(stop_in_the_second_round)
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, DIGEST, shared, trainer)
    assert finished_trials(shared) == 5
    assert len(search(SPACE, DIGEST, shared, Rehearsal()).trials) == 7


def test_the_tables_that_another_machine_has_just_made_are_used(config, monkeypatch):
    usual, calls = optuna.storages.RDBStorage.__init__, []

    def second(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) < 3:  # Optuna's own tables, then those of its migrations
            raise ProgrammingError("CREATE TABLE studies", {}, Exception("relation already exists"))
        usual(*arguments)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", second)
    assert len(search(SPACE, DIGEST, config, Rehearsal()).trials) == 3 and len(calls) == 3


def test_who_sees_that_it_is_not_alone_draws_with_a_seed_of_its_own(config, monkeypatch):
    drawn = []
    monkeypatch.setattr(searching.secrets, "randbits", lambda bits: drawn.append(bits) or 12345)
    search(SPACE, DIGEST, replace(config, study="alone", trials=12), Rehearsal())
    assert not drawn

    def in_company(settings: Settings, epoch: int) -> float:
        if not company.trained:
            search(SPACE, DIGEST, replace(config, trials=5), company)
        return 0.6

    company = Rehearsal()
    found = search(SPACE, DIGEST, replace(config, trials=14), Rehearsal(in_company))
    assert len(drawn) == 1 and len(found.trials) == 14
    assert [trial.number for trial in found.trials] == list(range(14))


def test_a_total_that_others_reach_meanwhile_ends_the_round_and_is_not_exceeded(config):
    config, epochs = replace(config, trials=10), []

    def in_company(settings: Settings, epoch: int) -> float:
        if len(alone.trained) == 4 and epoch == 5:
            search(SPACE, DIGEST, config, Rehearsal())
        epochs.append((len(alone.trained), epoch))
        return 0.6

    alone = Rehearsal(in_company)
    found = search(SPACE, DIGEST, config, alone)
    assert [trial.number for trial in found.trials] == list(range(10)) == [trial.number for trial in stored(config)]
    assert [count for count, _ in epochs] == [1] * 12 + [2] * 12 + [3] * 12 + [4] * 12 + [5, 6, 7, 8]


def test_in_postgresql_who_joins_others_leaves_them_the_recipes_and_draws_its_own(server, config):
    shared = replace(config, storage=postgresql.new_database(server, "joined"), trials=12)
    joining: list[StudyResult] = []

    def first(settings: Settings, epoch: int) -> float:
        if not joining:
            joining.append(search(SPACE, DIGEST, replace(shared, trials=3), Rehearsal()))
        return 0.6

    found = search(SPACE, DIGEST, shared, Rehearsal(first))
    tried = [trial.params for trial in found.trials]
    recipes = list(SPACE.recipes().values())
    assert not any(trial.params in recipes for trial in joining[0].trials) and len(joining[0].trials) == 3
    assert tried[3:9] == recipes and len({str(params) for params in tried}) == len(tried) == 12


def test_a_server_that_starts_anew_between_two_trials_is_reached_again(server, config):
    shared = replace(config, storage=postgresql.new_database(server, "restarted"), trials=9)

    def cut_off(settings: Settings, epoch: int) -> float:
        if len(trainer.trained) in (2, 9) and epoch == 0:
            with psycopg.connect(shared.storage, autocommit=True) as connection:
                others = "pid <> pg_backend_pid() AND datname = current_database()"
                assert connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        return 0.6

    trainer = Rehearsal(cut_off)
    assert len(search(SPACE, DIGEST, shared, trainer).trials) == 9 and len(trainer.trained) == 9


def test_the_reason_is_the_databases_own_where_optuna_has_words_for_it(config, monkeypatch):
    def full(*_: Any) -> None:
        wrong = OperationalError("SELECT", {}, Exception("sorry, too many clients already"))
        raise optuna.exceptions.StorageInternalError("This typically happens due to invalid data") from wrong

    monkeypatch.setattr(searching._SharedStudy, "add", full)
    with pytest.raises(StudyUnusable, match="too many clients already"):
        search(SPACE, DIGEST, config, Rehearsal())


_NARROW_TUNE = "import sys; from head import __main__; from head.search import space; space._WIDTHS, space._MOST_EPOCHS = (8,), 30; sys.exit(__main__.main(sys.argv[1:]))"


def test_two_machines_tune_one_study_at_once(server, tmp_path):
    storage = postgresql.new_database(server, "shared")
    total, processes = 8, []
    for name in ("a", "b"):
        artifacts = tmp_path / name
        write_features(artifacts, planted_features(60))
        command = [
            sys.executable,
            "-c",
            _NARROW_TUNE,
            "tune",
            "--data=data",
            "--model=fake",
            f"--artifacts={artifacts}",
        ]
        options = ["--study=shared", f"--storage={storage}", f"--trials={total}", "--folds=2", "--jobs=1"]
        processes.append(subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    try:
        said = [process.communicate(timeout=5 * PATIENCE)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    trials = stored(StudyConfig(storage, "shared"))
    assert [trial.number for trial in trials] == list(range(total))
    assert len({str(trial.params) for trial in trials}) == total
    settings = [json.loads((tmp_path / name / "bundles/latest/config.json").read_text()) for name in ("a", "b")]
    assert [row["params"] for row in settings[0]["study"]["history"]] == [trial.params for trial in trials]
    for one in settings:
        del one["created"]
    assert settings[0] == settings[1]
    heads = [(tmp_path / name / "bundles/latest/head.safetensors").read_bytes() for name in ("a", "b")]
    assert heads[0] == heads[1]
