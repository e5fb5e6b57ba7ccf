"""From a data set to a model bundle: what `make tune` does, without a command line and without output.

folder = tune(DatasetRequest("demo/memes", "local-dir:demo/encoder"), SearchRequest(trials=50))
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import DatasetRequest, Layout, find_index, read_index
from head import pipeline
from head.bundle.settings import Judging, Source, bundle_settings, review_after
from head.bundle.versions import Version, last_version, save_version, use
from head.candidates.table import BOTH, CANDIDATES
from head.data.features import fingerprint, load_tuning, prompt_vectors
from head.data.folds import Protocol
from head.fitting import ENSEMBLE, SINGLE
from head.judge.threshold import Aim, aim_of
from head.pipeline import Pick, TuneConfig, Tuned, study_digest
from head.search.config import StudyConfig, sqlite_url
from head.search.study import KindPruner, sampler

BEST = "best"
# Methods that can be asked for by name; "regression" is short for the one on both sides.
SHIP = {"ensemble": ENSEMBLE, "regression": BOTH} | {name: name for name in CANDIDATES}


@dataclass(frozen=True)
class SearchRequest:
    """How to tune, before the memes are read.

    aim: None for that of the bundle's last version, `Aim()` if there is none; study: name of the Optuna study, None for one
    made from the data, the folds and the seed; storage: an SQLAlchemy URL, None for a SQLite file in the artifacts folder;
    protocol, jobs, device: as in TuneConfig.
    """

    trials: int = StudyConfig.trials
    seed: int = 0
    study: str | None = None
    storage: str | None = None
    protocol: Protocol = field(default_factory=Protocol)
    aim: Aim | None = None
    jobs: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def config(self, source: Source, artifacts: Path) -> TuneConfig:
        """The settings of `tune` for these memes. Raises ValueError for counts out of range or an invalid URL, OSError
        where the artifacts folder cannot be made."""
        study, storage = self.study, self.storage
        # named after data and folds: changed data start a new study instead of being refused by the old
        if study is None:
            study = f"{source.file.stem}-{study_digest(source.fingerprint, self.protocol, self.seed)[:8]}"
        if not storage:
            artifacts.mkdir(parents=True, exist_ok=True)
            storage = sqlite_url(Layout(artifacts).studies)
        study_config = StudyConfig(storage, study, self.trials, self.seed)
        last = last_version(Layout(artifacts), source.file.stem)
        aim = self.aim or (aim_of(last.config) if last else Aim())
        return TuneConfig(study_config, self.protocol, aim, self.jobs, self.device)


@dataclass(frozen=True)
class Shipping:
    """What the bundle answers with. method: BEST (the reference, unless the ensemble ranks the memes better) or one of SHIP;
    review: the share of memes nearest the threshold that is left to human review, 0 for no review band, None for that of
    the bundle's last version. Raises ValueError for an unknown method, or a share that is not from 0 to below 1."""

    method: str = BEST
    review: float | None = None

    def __post_init__(self) -> None:
        if self.method not in (BEST, *SHIP):
            raise ValueError(f"--ship: expected one of {', '.join((BEST, *SHIP))}, got {self.method!r}")
        if self.review is not None and not 0 <= self.review < 1:
            raise ValueError(f"--review: expected a number from 0 to below 1, got {self.review}")


def tune(
    request: DatasetRequest,
    search: SearchRequest = SearchRequest(),
    shipping: Shipping = Shipping(),
    artifacts: Path = Path("artifacts"),
) -> Path:
    """Tune on a data set that was embedded or imported; returns the folder of the new version, which is then in use.

    Raises UnusableIndex where there is no such index, and what `read_source` and `tune_source` raise.
    """
    source = read_source(request, search, artifacts)
    folder = tune_source(source, search.config(source, artifacts), shipping, artifacts).folder
    use(Layout(artifacts), folder)
    return folder


def read_source(request: DatasetRequest, search: SearchRequest, artifacts: Path) -> Source:
    """The index of a request, and its memes that may be tuned on. Raises what `cache.find_index`, `cache.read_index` and
    `head.data.features.load_tuning` raise."""
    file = find_index(artifacts, request)
    index = read_index(file)
    features = load_tuning(index, Layout(artifacts).vectors, search.protocol.name == "official", search.seed)
    return Source(file, index, features, fingerprint(features, index.spec))


def tune_source(source: Source, config: TuneConfig, shipping: Shipping, artifacts: Path) -> Version:
    """Search, fit, calibrate and write a new version of the bundle, which is not yet in use.

    Raises what `head.pipeline.tune` raises, Unreachable where no threshold of the shipped method serves the aim, and
    ValueError where the vectors do not allow that method.
    """
    prompts = prompt_vectors(source.index, Layout(artifacts).vectors)
    last = last_version(
        Layout(artifacts), source.file.stem
    )  # before the minutes of search: another tune may end meanwhile
    tuned = pipeline.tune(source.features, source.fingerprint, prompts, config)
    settings, predictions = bundle_settings(
        source,
        Judging(
            config.protocol, config.aim, config.study.seed, review_after(shipping.review, last.config if last else None)
        ),
        tuned.methods,
        np.flatnonzero(np.isfinite(tuned.methods[ENSEMBLE].method.out_of_fold)),
        _shipped(shipping.method, tuned),
        reference=tuned.reference,
        study=_study(config, tuned),
    )
    # The weights of the other methods are left out: the report refits those quickly.
    stored = (ENSEMBLE, SINGLE, tuned.reference, settings["shipped"])
    ensembles = {
        name: ensemble
        for name, judged in tuned.methods.items()
        if name in stored and (ensemble := judged.method.ensemble) is not None
    }
    return save_version(Layout(artifacts), ensembles, settings, predictions)


def _shipped(ship: str, tuned: Tuned) -> str:
    name = tuned.best if ship == BEST else SHIP[ship]
    if name not in tuned.methods:
        raise ValueError(f"--ship {ship!r}: it needs sides that share a space; these have {', '.join(tuned.methods)}")
    return name


def _study(config: TuneConfig, tuned: Tuned) -> dict[str, Any]:
    """The study as config.json holds it."""
    best = tuned.study.best(1)[0]
    return {
        "name": config.study.study,
        "trials": len(tuned.study.trials),
        "best_trial": best.number,
        "best_value": best.value,
        "sampler": type(sampler(0, 0)).__name__,
        "pruner": KindPruner.__name__,
        "picks": [_pick(pick) for pick in tuned.picks],
        "history": [
            {
                "trial": trial.number,
                "state": "complete" if trial.complete else "pruned",
                "value": trial.value,
                "params": trial.params,
                "seconds": trial.seconds,
                **({} if trial.recipe is None else {"recipe": trial.recipe}),
            }
            for trial in tuned.study.trials
        ],
        "importances": tuned.study.importances,
    }


def _pick(pick: Pick) -> dict[str, Any]:
    values: dict[str, Any] = {"method": pick.name, "picked": pick.picked}
    if pick.trial is not None:
        trial = pick.trial
        values |= {"trial": trial.number, "head": asdict(trial.head), "train": asdict(trial.train)}
    return values
