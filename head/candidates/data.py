"""The data that candidates are fitted to, and the helpers that candidates share."""

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

# Most memes that a member is fitted to; more hardly change a candidate. Of a large set, memes and members that settings are
# compared on.
_MOST_MEMES = 8192
_COMPARED_MEMES, _COMPARED_MEMBERS = 2048, 2
# Memes per forward pass, to bound memory.
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class CandidateData:
    """features: N memes; members: train and held-out rows of each member; prompts: {label: (P, D) float32 text vectors}, {} for
    none; trained: a fusion head of the same members, whose embedding neighbours are searched in, None for none."""

    features: Features
    members: Members
    seed: int
    prompts: dict[str, np.ndarray] = field(default_factory=dict)
    trained: FusionHead | None = None

    def vectors(self) -> tuple[Tensor, Tensor]:
        """The image (N, Di) and text (N, Dt) vectors, float32."""
        return tensor(self.features.image), tensor(self.features.text)

    def inputs(self, blocks: Sequence[str], centred: bool, standard: bool = True) -> InputsConfig | None:
        """The config of these input blocks; None if they need sides that share a space, and these do not."""
        features = self.features
        if agreement_among(blocks) and not features.joint:
            return None
        widths = features.image.shape[1], features.text.shape[1], features.joint
        return InputsConfig(*widths, tuple(blocks), centred, standard)

    def train_rows(self) -> list[np.ndarray]:
        """Each member's train rows: all of a small set, a sample of a large one."""
        return [sample(train, _MOST_MEMES, self.seed) for train, _ in self.members]

    def compared(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Train and held-out rows of the members that settings are compared on: fewer of a large set."""
        large = max(len(train) for train, _ in self.members) > _COMPARED_MEMES
        members = self.members[: _COMPARED_MEMBERS if large else None]
        return [(sample(train, _COMPARED_MEMES, self.seed), held) for train, held in members]

    def aurocs(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """(K,) mean held-out AUROC over the compared members, of K settings; scores: one (K, H) array per compared member."""
        label = self.features.label
        return np.mean([aurocs(label[held], part) for part, (_, held) in zip(scores, self.compared())], axis=0)

    def method(self, head: nn.Module, settings: dict[str, object]) -> Method:
        """A fitted head as a method, with its out-of-fold scores."""
        ensemble = HeadEnsemble([head.eval()], [1.0])
        logits = self.scores(head)
        scored = [(held, logits[at, held].astype(np.float64)) for at, (_, held) in enumerate(self.members)]
        return Method(mean_of(len(self.features), scored), ensemble.score, settings, ensemble)

    @torch.inference_mode()
    def scores(self, of: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
        """(M, N, ...) outputs of a function of (N, Di) and (N, Dt) vectors, computed in batches."""
        parts = zip(*(vectors.split(_ROWS) for vectors in self.vectors()))
        return torch.cat([of(*part) for part in parts], dim=1).numpy()


def sample(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of the rows, drawn with the seed, in their order."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def mean_of(count: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(count,) mean score of each row over the (rows, scores) parts; NaN for rows in none."""
    total, times = np.zeros(count), np.zeros(count)
    for rows, scores in parts:
        total[rows] += scores
        times[rows] += 1
    return np.divide(total, times, out=np.full(count, np.nan), where=times > 0)


def tensor(values: np.ndarray) -> Tensor:
    """As float32."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
