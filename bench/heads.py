"""Quality of tuned heads and ablations of the tuning: AUROC on unseen memes.

    python -m bench.heads agreement both --memes 600

Synthetic memes with the geometry of CLIP's space (`bench.planted.clip_like`) are evaluated on 4,000 new ones. A file of
`ids, image, text, label, split`, as for `python -m cache import`, is evaluated on its test split, or, if it has none,
on validation by the official protocol, which is optimistic.

    --without NAME   leave out a part of the tuning, may be repeated; `all` leaves out each in turn
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bench.machine import describe, print_json, say
from bench.planted import RULES, clip_like
from cache import cores
from head import fitting
from head.candidates import table
from head.candidates.table import CANDIDATES
from head.data.features import Features
from head.data.folds import Protocol
from head.data.ranking import auroc
from head.fitting import ENSEMBLE, SINGLE
from head.judge.threshold import Aim
from head.model.fusion import HeadConfig
from head.model.inputs import InputsConfig
from head.pipeline import TuneConfig, Tuned, tune
from head.search import space, study
from head.search.study import ROUND, StudyConfig

_FRESH = 4000
_PRODUCTS = ("logistic regression, product", "logistic regression, all inputs", "nearest neighbours, product")


def main() -> int:
    """Measure, print a line for each run and the JSON line."""
    args = _parser().parse_args()
    machine, runs = describe(), []
    without = list(_PARTS) if args.without == ["all"] else args.without
    print(
        f"{'memes':28}{'seed':>5}{'without':>13}{'seconds':>9}{'knows':>7}{'ships':>7}{'ensemble':>10}{'single':>8}  best candidate"
    )
    for name in args.sets:
        for seed in range(args.seeds):
            for part in ["", *without]:
                run = _run(name, args.memes, seed, args.trials, part)
                runs.append(run)
                knows = "" if run["optimum"] is None else f"{run['optimum']:.3f}"
                print(
                    f"{Path(name).stem:28}{seed:5}{part:>13}{run['seconds']:9}{knows:>7}{run['shipped_auroc']:7.3f}"
                    f"{run['ensemble']:10.3f}{run['single']:8.3f}  {run['candidate_auroc']:.3f} {run['candidate']}; "
                    f"ships {run['shipped']}",
                    flush=True,
                )
    print_json({"benchmark": "heads", "machine": machine, "trials": args.trials, "runs": runs})
    return 0


def _run(name: str, memes: int, seed: int, trials: int, part: str) -> dict[str, object]:
    known, fresh, optimum = _planted(name, memes, seed) if name in RULES else _read(Path(name))
    official = not len(fresh)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-heads-") as folder, _PARTS.get(part, nullcontext)():
        if part == "shared space":
            known, fresh = replace(known, joint=0), replace(fresh, joint=0)
        where = StudyConfig(f"sqlite:///{folder}/studies.sqlite3", "bench", trials, seed)
        protocol = Protocol("official" if official else "kfold")
        tuned = tune(known, "bench", {}, TuneConfig(where, protocol, Aim(), min(ROUND, cores())))
        worth = _worth(tuned, known, fresh)
    say(f"{name}, seed {seed}, without {part or 'nothing'}: {worth}")
    candidate = max((name for name in worth if name in CANDIDATES), key=worth.__getitem__)
    return {
        "set": Path(name).stem,
        "memes": len(known),
        "seed": seed,
        "without": part,
        "seconds": round(time.perf_counter() - began),
        "judged": "validation, optimistic" if official else "test",
        "optimum": optimum,
        "shipped": tuned.best,
        "shipped_auroc": worth[tuned.best],
        "ensemble": worth[ENSEMBLE],
        "single": worth[SINGLE],
        "candidate": candidate,
        "candidate_auroc": worth[candidate],
    }


def _worth(tuned: Tuned, known: Features, fresh: Features) -> dict[str, float]:
    worth = {}
    for name, judged in tuned.methods.items():
        out, there = judged.method.out_of_fold, np.isfinite(judged.method.out_of_fold)
        value = auroc(fresh.label, judged.method.score(fresh)) if len(fresh) else auroc(known.label[there], out[there])
        worth[name] = round(value or 0.0, 4)
    return worth


def _planted(rule: str, memes: int, seed: int) -> tuple[Features, Features, float | None]:
    known, _ = clip_like(memes, seed, rule)
    fresh, optimum = clip_like(_FRESH, 1000 + seed, rule)
    return known, fresh, round(optimum, 4)


def _read(path: Path) -> tuple[Features, Features, float | None]:
    with np.load(path, allow_pickle=False) as file:
        image, text, label = file["image"].astype(np.float32), file["text"].astype(np.float32), file["label"]
        count, joint = len(label), image.shape[1] if image.shape[1] == text.shape[1] else 0
        label = (label == "offensive" if label.dtype.kind == "U" else label).astype(np.int64)
        nothing = np.full(count, "")
        memes = Features(file["ids"], image, text, label, file["split"], np.arange(count), nothing, joint)
    return memes.only("train", "validation"), memes.only("test"), None


@contextmanager
def _always(of: type, field: str, value: object) -> Iterator[None]:
    """Force `field` to `value` in all instances of the config class `of`."""
    checked = of.__post_init__  # type: ignore[attr-defined]

    def forced(self: object) -> None:
        object.__setattr__(self, field, value)
        checked(self)

    with patch.object(of, "__post_init__", forced):
        yield


@contextmanager
def _centring() -> Iterator[None]:
    with _always(HeadConfig, "centred", False), _always(InputsConfig, "centred", False):
        yield


@contextmanager
def _products() -> Iterator[None]:
    """Without element-wise products of the sides; their cosine remains."""
    kinds = {name: fit for name, fit in CANDIDATES.items() if name not in _PRODUCTS}
    spaceless = lambda self, dims, memes: first(self, {**dims, "joint": 0}, memes)
    first: Callable[..., None] = space.Space.__init__
    with (
        patch.object(table, "CANDIDATES", kinds),
        patch.object(fitting, "CANDIDATES", kinds),
        patch.object(space.Space, "__init__", spaceless),
    ):
        yield


_PARTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "shared space": nullcontext,  # see _run
    "centring": _centring,
    "spectrum": lambda: _always(HeadConfig, "spectrum", 0),
    "products": _products,
    "candidates": lambda: patch.object(fitting, "_ensemble", _of_trials_alone),
    "start": lambda: patch.object(study, "_least_tried", lambda *_: []),
}


def _of_trials_alone(label, folds, library, seed, _whole=fitting._ensemble):  # type: ignore[no-untyped-def]
    trials = [place for place, name in enumerate(library.names) if name not in CANDIDATES]
    names, heads = ([of[at] for at in trials] for of in (library.names, library.heads))
    return _whole(label, folds, fitting._Library(names, heads, library.logits[trials]), seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.heads", description="Quality of tuned heads and ablations of the tuning."
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help=f"{', '.join(RULES)}, or a file of vectors")
    parser.add_argument("--memes", type=int, default=600, help="number of synthetic memes (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--trials", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--without", action="append", choices=[*_PARTS, "all"], default=[], help="a part to leave out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
