"""Learning curve: cross-fitted AUROC of a candidate fitted to a quarter, a half and all of the memes tuned on."""

from contextlib import suppress
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from head.candidates.data import CandidateData
from head.candidates.table import CANDIDATES
from head.data.features import Features
from head.data.folds import Protocol, members, refold
from head.data.ranking import auroc

_SHARES = (0.25, 0.5, 1.0)
# Fewer folds than in tuning, which small shares of the memes allow more often.
_FOLDS = Protocol("kfold", 3)


def learning_curve(features: Features, name: str, part: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """[{"memes", "auroc", "error"}]: the mean number of train memes, and mean and standard error of the parts' AUROC; shares too
    small for folds are left out. name: of a candidate; part: (N,), of `head.data.folds.parts`."""
    found = []
    for share in tqdm(_SHARES, "learning curve", leave=False, delay=1):
        with suppress(ValueError), threadpool_limits(1):
            results = [_fit_share(features, name, part == one, share, seed) for one in range(part.max() + 1)]
            sizes, areas = zip(*(one for one in results if one is not None))
            error = np.std(areas, ddof=1) / np.sqrt(len(areas)) if len(areas) > 1 else 0.0
            found.append({"memes": round(np.mean(sizes)), "auroc": float(np.mean(areas)), "error": float(error)})
    return found


def _fit_share(features: Features, name: str, held: np.ndarray, share: float, seed: int) -> tuple[int, float] | None:
    """Number of train memes, and held-out AUROC; None if held-out memes have one label or the candidate does not apply."""
    groups = np.unique(features.copies[~held])
    drawn = np.random.default_rng(seed).permutation(groups)[: max(1, round(share * len(groups)))]
    known = features.at(np.flatnonzero(~held & np.isin(features.copies, drawn)))
    everything = np.full(len(known), "train", "U10")
    method = CANDIDATES[name](
        CandidateData(known, members(refold(known.label, known.copies, everything, _FOLDS, seed)), seed)
    )
    others = features.at(np.flatnonzero(held))
    area = auroc(others.label, method.score(others)) if method is not None else None
    return None if area is None else (len(known), area)
