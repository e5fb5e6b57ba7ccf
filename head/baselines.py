"""What a tuned head must beat: logistic regression on the same vectors, a vote of neighbours, CLIP's own zero-shot
answer, and the majority class.

Each learns from the same members' memes as the heads do, and never sees test. They stand beside every result.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from head.data.features import Features
from head.data.ranking import aurocs
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FusionHead, HeadConfig
from head.model.method import Method
from head.model.scaling import Scaling
from head.search.workers import Members

BOTH, IMAGE, TEXT = ("logistic regression, both", "logistic regression, image only", "logistic regression, text only")
NEIGHBOURS, ZERO_SHOT, MAJORITY = "nearest neighbours", "zero-shot prompts", "majority class"
_SIDES = {BOTH: ("image", "text"), IMAGE: ("image",), TEXT: ("text",)}
# Standardised columns in their hundreds want strong penalties; two steps a decade are finer than folds can tell.
_PENALTIES = np.logspace(-5, 1, 13)
# A fit that has not settled by then is one with hardly any penalty, which the folds seldom pick.
_STEPS = 500
# Enough to compare penalties is scikit-learn's own; a head that may be shipped is to be the optimum to three digits.
_TOLERANCE = 1e-5
# Memes on which penalties are compared, and among which neighbours vote: more hardly change either, and take hours.
_MOST_MEMES = 8192
_VOTERS = (1, 3, 5, 10, 20, 50, 100)
# A vote of all, or of none, has no logit; half a vote for each class gives it one.
_HALF_A_VOTE = 0.5


def fit_baselines(features: Features, members: Members, prompts: dict[str, np.ndarray], seed: int) -> dict[str, Method]:
    """Fit every baseline to the members' shares of the memes; BOTH comes first.

    prompts: {label: (P, D) text vectors}; without them, or where pictures and texts are not in one space, there is no
    ZERO_SHOT.
    """
    methods = {}
    # Small products: threads that wait for each other on busy cores are slower than one.
    with threadpool_limits(1):
        for name, sides in tqdm(_SIDES.items(), "logistic regressions", leave=False, delay=1):
            methods[name] = _logistic(features, members, sides, seed)
    methods[NEIGHBOURS] = _neighbours(features, members, seed)
    if prompts and features.image.shape[1] == features.text.shape[1]:
        methods[ZERO_SHOT] = _zero_shot(features, members, prompts)
    methods[MAJORITY] = _majority(features, members)
    return methods


def _logistic(features: Features, members: Members, sides: Sequence[str], seed: int) -> Method:
    """With the penalty that has the highest mean AUROC on the memes held out; as on frozen CLIP vectors in Radford et
    al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), but on both sides."""
    config = HeadConfig(features.image.shape[1], features.text.shape[1], "linear", components=0, depth=0, dropout=0.0)
    shares = [_Share(features, config, sides, *member) for member in members]
    sweeps = [share.sweep(np.random.default_rng(seed)) for share in shares]
    penalty = float(_PENALTIES[np.argmax(np.mean(sweeps, axis=0))])  # the first of equals is the strongest penalty
    head = FusionHead(config, len(members)).requires_grad_(False)
    for member, share in enumerate(shares):
        share.fit_into(head, member, penalty)
    ensemble = HeadEnsemble([head], [1.0])
    return Method(_held_out(features, members, ensemble), ensemble.score, {"C": penalty}, ensemble)


class _Share:
    """One member's memes, scaled as its head scales them; a side that is left out is a column of no width."""

    def __init__(
        self, features: Features, config: HeadConfig, sides: Sequence[str], train: np.ndarray, held: np.ndarray
    ) -> None:
        self._scaling = {side: Scaling(1, dim, dim) for side, dim in config.side_widths.items()}
        self._sides, self._train, self._held = sides, train, held
        self._label = features.label
        columns = []
        for side, scaling in self._scaling.items():
            vectors = torch.from_numpy(np.ascontiguousarray(getattr(features, side), np.float32))
            scaling.fit(vectors, [torch.from_numpy(train)])
            if side in sides:
                columns.append((scaling(vectors[train])[0], scaling(vectors[held])[0]))
        self._rows, self._held_rows = (torch.cat(parts, dim=1) for parts in zip(*columns))
        # Fewer memes than columns span few directions. A fit in those is the fit in all columns, several times quicker.
        self._axes: Tensor | None = None
        if self._rows.shape[0] < self._rows.shape[1]:
            _, _, self._axes = torch.linalg.svd(self._rows, full_matrices=False)
            self._rows, self._held_rows = self._rows @ self._axes.T, self._held_rows @ self._axes.T

    def sweep(self, generator: np.random.Generator) -> np.ndarray:
        """(P,) AUROC on the memes held out for each of the penalties."""
        chosen = generator.permutation(len(self._train))[:_MOST_MEMES]
        rows, label = self._rows.numpy()[chosen], self._label[self._train][chosen]
        held, wanted = self._held_rows.numpy(), self._label[self._held]
        model, scores = _model(_PENALTIES[0]), []
        for penalty in _PENALTIES:
            _fit(model.set_params(C=penalty), rows, label)
            scores.append(model.decision_function(held))
        return aurocs(wanted, np.stack(scores))

    def fit_into(self, head: FusionHead, member: int, penalty: float) -> None:
        """Make one member of a linear head what the regression with this penalty is."""
        model = _fit(_model(penalty).set_params(tol=_TOLERANCE), self._rows.numpy(), self._label[self._train])
        weight = torch.from_numpy(model.coef_[0]).float()
        if self._axes is not None:
            weight = weight @ self._axes
        parts = iter(weight.split([len(self._scaling[side].mean[0, 0]) for side in self._sides]))
        for side, scaling in self._scaling.items():
            for name in ("mean", "std"):
                head.scaling[side].get_buffer(name)[member] = scaling.get_buffer(name)[0]
        widths = [len(scaling.mean[0, 0]) for scaling in self._scaling.values()]
        for side, place in zip(self._scaling, head.output.get_parameter("weight")[member].split(widths)):
            place[:, 0] = next(parts) if side in self._sides else 0.0
        head.output.get_parameter("bias")[member] = float(model.intercept_[0])


def _model(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=float(penalty), max_iter=_STEPS, warm_start=True)


def _fit(model: LogisticRegression, rows: np.ndarray, label: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # The weak end of the sweep need not settle; the memes held out judge what came out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, label)


def _neighbours(features: Features, members: Members, seed: int) -> Method:
    """The share of offensive memes among the k nearest of those known (Cover and Hart, "Nearest Neighbor Pattern
    Classification", 1967), by the mean cosine of both sides after centring; k is chosen as the penalties are."""
    votes = []
    for train, _ in members:
        chosen = np.random.default_rng(seed).permutation(train)[:_MOST_MEMES]
        votes.append(_Vote(features, chosen))
    held = [vote.score(features.at(rows), _VOTERS) for vote, (_, rows) in zip(votes, members)]  # (H, K) each
    means = np.mean([aurocs(features.label[rows], scores.T) for scores, (_, rows) in zip(held, members)], axis=0)
    best = int(np.argmax(means))
    out = _mean_of(len(features), [(rows, scores[:, best]) for scores, (_, rows) in zip(held, members)])
    k = _VOTERS[best : best + 1]
    return Method(out, lambda memes: np.mean([vote.score(memes, k)[:, 0] for vote in votes], axis=0), {"k": k[0]})


class _Vote:
    """Known memes that vote on others."""

    def __init__(self, features: Features, rows: np.ndarray) -> None:
        self._sides = ("image", "text")
        known = {side: F.normalize(_tensor(getattr(features, side)[rows]), dim=-1) for side in self._sides}
        self._centres = {side: vectors.mean(dim=0) for side, vectors in known.items()}
        self._known = torch.cat([F.normalize(known[side] - self._centres[side], dim=-1) for side in self._sides], dim=1)
        self._label = _tensor(features.label[rows])

    def score(self, memes: Features, counts: Sequence[int]) -> np.ndarray:
        """(N, K): the logit of the vote of each number of neighbours; at most all vote."""
        parts = []
        for start in range(0, len(memes), _MOST_MEMES):
            rows = slice(start, start + _MOST_MEMES)
            sides = [
                F.normalize(F.normalize(_tensor(getattr(memes, side)[rows]), dim=-1) - self._centres[side], dim=-1)
                for side in self._sides
            ]
            nearest = (torch.cat(sides, dim=1) @ self._known.T).topk(min(max(counts), len(self._label))).indices
            parts.append(self._label[nearest].double().cumsum(dim=1).numpy())  # (n, most): offensive among the first k
        votes = np.concatenate(parts)
        most = np.minimum(counts, votes.shape[1])
        return logit((votes[:, most - 1] + _HALF_A_VOTE) / (most + 2 * _HALF_A_VOTE))


def _zero_shot(features: Features, members: Members, prompts: dict[str, np.ndarray]) -> Method:
    """How much nearer picture and text together are to the prompts of one label than to those of the other, as Radford
    et al. (2021) classify pictures, with the mean of several prompts a label. It learns nothing from the memes."""
    offensive, other = (_unit(_unit(prompts[label]).mean(axis=0)) for label in ("offensive", "non-offensive"))

    def score(memes: Features) -> np.ndarray:
        return _unit(_unit(memes.image) + _unit(memes.text)).astype(np.float64) @ (offensive - other)

    return Method(_mean_of(len(features), [(rows, score(features.at(rows))) for _, rows in members]), score)


def _majority(features: Features, members: Members) -> Method:
    share = logit(float(features.label.mean()))
    out = _mean_of(len(features), [(rows, np.full(len(rows), share)) for _, rows in members])
    return Method(out, lambda memes: np.full(len(memes), share))


def _held_out(features: Features, members: Members, ensemble: HeadEnsemble) -> np.ndarray:
    """(N,) logits of one head by the members that held each meme out."""
    head = ensemble.heads[0]
    with torch.inference_mode():
        logits = torch.cat([head(*part) for part in _parts(features)], dim=1).double().numpy()  # (M, N)
    return _mean_of(len(features), [(rows, logits[member, rows]) for member, (_, rows) in enumerate(members)])


def _parts(features: Features) -> zip:
    return zip(*(_tensor(vectors).split(_MOST_MEMES) for vectors in (features.image, features.text)))


def _mean_of(count: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(count,) mean of the scores given for each row; NaN where none is."""
    total, times = np.zeros(count), np.zeros(count)
    for rows, scores in parts:
        total[rows] += scores
        times[rows] += 1
    return np.divide(total, times, out=np.full(count, np.nan), where=times > 0)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
