"""What every candidate is fitted to, and what becomes of its scores. Knows no candidate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from head.data.features import Features
from head.data.folds import Members
from head.data.ranking import aurocs
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FusionHead
from head.model.inputs import InputsConfig, agreement_among
from head.model.method import Method

# Memes that a member is fitted to, at most; and those on which settings are compared, which more hardly change.
_MOST_MEMES = 8192
_COMPARED_MEMES, _COMPARED_MEMBERS = 2048, 2
# Memes at a time: bounds the memory on large sets and costs nothing on small ones.
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class CandidateData:
    """features: N memes; members: which of them each member learns from and which it is judged by; prompts: {label: (P, D)
    text vectors}, {} for none; trained: a fusion head of the same members in whose space neighbours are looked for, None for
    none."""

    features: Features
    members: Members
    seed: int
    prompts: dict[str, np.ndarray] = field(default_factory=dict)
    trained: FusionHead | None = None

    def vectors(self) -> tuple[Tensor, Tensor]:
        """(N, Di) and (N, Dt)."""
        return tensor(self.features.image), tensor(self.features.text)

    def inputs(self, blocks: Sequence[str], centred: bool, standard: bool = True) -> InputsConfig | None:
        """These blocks of the memes' vectors; None where they need sides that share a space, and these do not."""
        features = self.features
        if agreement_among(blocks) and not features.joint:
            return None
        widths = features.image.shape[1], features.text.shape[1], features.joint
        return InputsConfig(*widths, tuple(blocks), centred, standard)

    def train_rows(self) -> list[np.ndarray]:
        """The rows that each member learns from: all of a small set, a sample of a large one."""
        return [sample(train, _MOST_MEMES, self.seed) for train, _ in self.members]

    def compared(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows to learn from and to judge by, of the members that settings are compared on: fewer of a large set."""
        large = max(len(train) for train, _ in self.members) > _COMPARED_MEMES
        members = self.members[: _COMPARED_MEMBERS if large else None]
        return [(sample(train, _COMPARED_MEMES, self.seed), held) for train, held in members]

    def aurocs(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """(K,) mean AUROC over the compared members of K settings, of whose (K, H) scores there is one array each."""
        label = self.features.label
        return np.mean([aurocs(label[held], part) for part, (_, held) in zip(scores, self.compared())], axis=0)

    def method(self, head: nn.Module, settings: dict[str, object]) -> Method:
        """The method that a fitted head is."""
        ensemble = HeadEnsemble([head.eval()], [1.0])
        logits = self.scores(head)
        scored = [(held, logits[at, held].astype(np.float64)) for at, (_, held) in enumerate(self.members)]
        return Method(mean_of(len(self.features), scored), ensemble.score, settings, ensemble)

    @torch.inference_mode()
    def scores(self, of: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
        """(M, N, ...): what is made of the (N, Di) and (N, Dt) vectors, some memes at a time."""
        parts = zip(*(vectors.split(_ROWS) for vectors in self.vectors()))
        return torch.cat([of(*part) for part in parts], dim=1).numpy()


def sample(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, drawn by the seed, in their order."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def mean_of(count: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(count,) mean of the scores given for each row; NaN where none is."""
    total, times = np.zeros(count), np.zeros(count)
    for rows, scores in parts:
        total[rows] += scores
        times[rows] += 1
    return np.divide(total, times, out=np.full(count, np.nan), where=times > 0)


def tensor(values: np.ndarray) -> Tensor:
    """As float32."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
