"""Training of a head's members, on features in memory.

A member is one fold of one repeat, with its own train memes, held-out memes and weights. All members take each step
together, as batched matrix products over stacked weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from head.data.features import Features
from head.data.folds import Members
from head.data.ranking import aurocs
from head.model.fusion import FusionHead, HeadConfig, scaled_columns
from head.model.inputs import Agreement
from head.model.losses import LossConfig, class_weights, classification_loss, cosines, nearest, retrieval_loss
from head.model.scaling import Scaling

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
# HateCLIPper's value. In small batches one outlier would otherwise undo an epoch.
_GRADIENT_CLIP = 0.1
# Without momentum SGD needs several times the epochs.
_MOMENTUM = 0.9
# An epoch is one pass over the train memes, or over a new random sample of this size: large sets are evaluated, stopped and
# pruned as often as small ones, and thirty epochs are the few passes that they need.
_EPOCH_MEMES = 8192
# Most held-out memes for early stopping; a sample of this size estimates AUROC to .01.
_MONITORED_MEMES = 4096
# Most memes among which neighbours are retrieved in an epoch.
_BANK_MEMES = 1024
# Memes per forward pass without gradients, to bound memory.
_PREDICT_ROWS = 8192

OnEpoch = Callable[[int, float], None]
"""Called after each epoch with its number from 0 and the members' mean held-out AUROC, each at its best epoch so far; may
raise to stop."""


class Diverged(ValueError):
    """A member had no epoch with a finite held-out loss."""


@dataclass(frozen=True)
class TrainConfig:
    """Training settings of a head. Raises ValueError for values out of range."""

    optimizer: str = "adamw"  # HateCLIPper
    learning_rate: float = 1e-4  # HateCLIPper
    weight_decay: float = 1e-4  # HateCLIPper
    batch_size: int = 32  # the papers use 16 to 64
    max_epochs: int = 30  # heads on hundreds of memes overfit well before
    patience: int = 5  # epochs without a lower loss; heads on products start on a plateau
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate!r}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay!r}")
        for name, least in (("batch_size", 1), ("max_epochs", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**values, "loss": LossConfig(**values["loss"])})


class TrainingSet:
    """Memes and the members' rows of them, on a device; scalings are computed once for all trials."""

    def __init__(
        self, features: Features, members: Members, device: torch.device, parts: np.ndarray | None = None
    ) -> None:
        """members: train and held-out rows of each, both with both labels; parts: (N,) int64, as `head.data.folds.parts`, None
        for none."""
        self.device, self.members = device, len(members)
        self.rows = [torch.from_numpy(member[0]).to(device) for member in members]
        self.label = torch.from_numpy(features.label).to(device, torch.float32)  # (N,)
        self._features = features
        held = [torch.from_numpy(member[1]).to(device) for member in members]
        self.held, self.held_counts = _rectangle(held)  # (M, H) each
        self.monitored, self.monitored_counts = _rectangle([_sample(rows, self.label) for rows in held])  # (M, J) each
        self.parts = np.full(len(features), -1) if parts is None else parts
        in_train = torch.zeros(len(members), len(features), device=device)
        for member, rows in enumerate(self.rows):
            in_train[member, rows] = 1
        self.balance = class_weights(self.label.expand(len(members), -1), in_train)  # (M, N)
        self._scaled: dict[tuple[Any, ...], tuple[nn.Module, Tensor]] = {}

    def scaled(self, name: str, config: HeadConfig) -> tuple[nn.Module, Tensor]:
        """The members' scalings of a side, or of "agreement", and all memes scaled by them, (M, N, width)."""
        width = config.agreement_components if name == "agreement" else config.side_widths[name]
        key = name, width, config.centred if name == "agreement" else config.spectrum
        if key not in self._scaled:
            image, text = (
                torch.from_numpy(np.ascontiguousarray(side, np.float32)).to(self.device)
                for side in (self._features.image, self._features.text)
            )
            columns = [part.contiguous() for part in scaled_columns(name, image, text, config.joint)]
            scaling: Agreement | Scaling
            if name == "agreement":
                scaling = Agreement(self.members, config.joint, width, config.centred).to(self.device)
                scaling.fit(columns[0], columns[1], self.rows)
            else:
                scaling = Scaling(self.members, columns[0].shape[1], width, config.spectrum).to(self.device)
                scaling.fit(columns[0], self.rows)
            self._scaled[key] = scaling, scaling(*columns)
        return self._scaled[key]


@dataclass(frozen=True, eq=False)
class Trained:
    """head: M members in eval mode, each after its best epoch; auroc: (M,) float64, of each member on its monitored held-out
    memes; without: (P,) float64, for each part the members' mean AUROC on memes of other parts; logits: (N,) float64,
    out-of-fold, averaged over repeats, NaN where no member held a meme out."""

    head: FusionHead
    auroc: np.ndarray
    without: np.ndarray
    logits: np.ndarray


def train_head(
    head_config: HeadConfig, train_config: TrainConfig, data: TrainingSet, on_epoch: OnEpoch | None = None
) -> Trained:
    """Fit each member to its train memes, with early stopping on its held-out memes.

    The best epoch has the lowest loss, which is smoother than AUROC over a hundred memes and favours calibrated
    probabilities. The same seed gives the same weights; the global random state is restored afterwards. Raises Diverged,
    and whatever `on_epoch` raises.
    """
    # initial weights and dropout use the global generator
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(train_config.seed)
        head = FusionHead(head_config, data.members)
        scaled = {}
        for name in head.scaling:
            head.scaling[name], scaled[name] = data.scaled(name, head_config)
        fit = _Fit(head.to(data.device), train_config, data, scaled)
        return fit.run(on_epoch)


class _Fit:
    """One training. The weights of all members are one (M, P) tensor, of which the head's parameters are views: the optimizer
    step, gradient clipping and storing the best weights are one operation each.
    """

    def __init__(self, head: FusionHead, config: TrainConfig, data: TrainingSet, scaled: dict[str, Tensor]) -> None:
        self.head, self.config, self.data, self.scaled = head, config, data, scaled
        self.parameters = list(head.parameters())
        self.flat = torch.cat([parameter.detach().flatten(1) for parameter in self.parameters], dim=1)  # (M, P)
        start = 0
        for parameter in self.parameters:
            place = slice(start, start + parameter[0].numel())
            parameter.data = self.flat[:, place].view_as(parameter)
            start = place.stop
        self.optimizer = _optimizer(self.flat, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.monitored = self._rows(data.monitored)
        self.monitored_label = data.label[data.monitored]

    def run(self, on_epoch: OnEpoch | None) -> Trained:
        members = self.data.members
        best_loss = torch.full((members,), torch.inf, device=self.data.device)
        best, best_logits = self.flat.clone(), torch.zeros_like(self.monitored_label)
        since = torch.zeros_like(best_loss)
        for epoch in range(self.config.max_epochs):
            self._epoch()
            loss, logits = self._validate()
            # False for NaN; members that have stopped keep their best weights while the others continue
            better = (loss < best_loss) & (since < self.config.patience)
            since = torch.where(better, 0, since + 1)
            best_loss = torch.where(better, loss, best_loss)
            best = torch.where(better[:, None], self.flat, best)
            best_logits = torch.where(better[:, None], logits, best_logits)
            if on_epoch:
                on_epoch(epoch, float(self._aurocs(best_logits).mean()))
            if (since >= self.config.patience).all():
                break
        if not torch.isfinite(best_loss).all():
            raise Diverged(f"{self.config}: the loss was never a finite number; lower the learning rate")
        self.flat.copy_(best)
        for parameter in self.parameters:
            parameter.data = parameter.data.contiguous()
        without = self._without(best_logits)
        return Trained(self.head.eval(), self._aurocs(best_logits), without, self._out_of_fold())

    def _epoch(self) -> None:
        self.head.train()
        length = min(_EPOCH_MEMES, max(map(len, self.data.rows)))
        order = torch.stack([self._shuffled(rows, length) for rows in self.data.rows])  # (M, L)
        label = self.data.label[order]
        weight = self.data.balance.gather(1, order) if self.config.loss.class_weight else torch.ones_like(label)
        neighbours = self._neighbours(order, label) if self.config.loss.contrastive else None
        for start in range(0, length, self.config.batch_size):
            part = slice(start, start + self.config.batch_size)
            embedded = self.head.embed(self._rows(order[:, part]))
            loss = classification_loss(self.config.loss, self.head.logits(embedded), label[:, part], weight[:, part])
            if neighbours:
                like, unlike = (rows[:, part] for rows in neighbours)
                loss = loss + self.config.loss.contrastive * retrieval_loss(embedded, like, unlike, label[:, part])
            self._step(loss.sum())  # members share no weights, so the sum's gradient is that of each

    def _step(self, loss: Tensor) -> None:
        gradient = torch.cat([part.flatten(1) for part in torch.autograd.grad(loss, self.parameters)], dim=1)  # (M, P)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (M, 1)
        gradient.mul_((_GRADIENT_CLIP / (norm + 1e-6)).clamp(max=1.0))  # as torch.nn.utils.clip_grad_norm_
        self.flat.grad = gradient
        self.optimizer.step()

    def _shuffled(self, rows: Tensor, length: int) -> Tensor:
        """`length` of the rows in random order. A member with fewer rows repeats its first ones: a batch without any of its memes
        would have no mean loss."""
        order = torch.randperm(len(rows), generator=self.generator).to(rows.device)
        return rows[order[torch.arange(length, device=rows.device) % len(rows)]]

    @torch.no_grad()
    def _neighbours(self, order: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings, at the start of the epoch, of each meme's nearest meme of the same and of the other label, (M, L, H)
        each; order, label: (M, L)."""
        self.head.eval()
        embedded = self._embedded({side: _take(vectors, order) for side, vectors in self.scaled.items()})
        self.head.train()
        bank = slice(0, _BANK_MEMES)
        found: list[list[Tensor]] = [[], []]
        for start in range(0, order.shape[1], _BANK_MEMES):
            part = slice(start, start + _BANK_MEMES)
            alike = label[:, part, None] == label[:, None, bank]  # (M, <= _BANK_MEMES, B)
            other = order[:, part, None] != order[:, None, bank]
            similarity = cosines(embedded[:, part], embedded[:, bank])
            for kind, allowed in zip(found, (alike & other, ~alike)):
                kind.append(nearest(similarity, allowed))
        like, unlike = (_take(embedded, torch.cat(kind, dim=1)) for kind in found)
        return like, unlike

    def _rows(self, rows: Tensor) -> dict[str, Tensor]:
        return {side: _take(vectors, rows) for side, vectors in self.scaled.items()}

    @torch.no_grad()
    def _validate(self) -> tuple[Tensor, Tensor]:
        """Loss (M,) and logits (M, J) of each member on its monitored held-out memes."""
        self.head.eval()
        logits = self.head.logits(self._embedded(self.monitored))
        weight = self.data.monitored_counts
        if self.config.loss.class_weight:
            weight = weight * self.data.balance.gather(1, self.data.monitored)
        return classification_loss(self.config.loss, logits, self.monitored_label, weight), logits

    def _embedded(self, scaled: dict[str, Tensor]) -> Tensor:
        """{side: (M, N, K)} -> (M, N, H), in batches."""
        parts = zip(*(vectors.split(_PREDICT_ROWS, dim=1) for vectors in scaled.values()))
        return torch.cat([self.head.embed(dict(zip(scaled, part))) for part in parts], dim=1)

    def _aurocs(self, logits: Tensor, counts: Tensor | None = None) -> np.ndarray:
        arrays = (
            self.monitored_label,
            torch.nan_to_num(logits),
            self.data.monitored_counts if counts is None else counts,
        )
        return aurocs(*(array.cpu().numpy() for array in arrays))

    def _without(self, logits: Tensor) -> np.ndarray:
        part = torch.from_numpy(self.data.parts).to(logits.device)[self.data.monitored]  # (M, J)
        found = [
            self._aurocs(logits, self.data.monitored_counts * (part != one)) for one in range(self.data.parts.max() + 1)
        ]
        return np.array([np.mean(one[np.isfinite(one)]) if np.isfinite(one).any() else 0.5 for one in found])

    @torch.no_grad()
    def _out_of_fold(self) -> np.ndarray:
        """(N,) out-of-fold logits, averaged over repeats; NaN where no member held a meme out."""
        logits = self.head.logits(self._embedded(self._rows(self.data.held))).double()  # (M, H)
        total, count = (torch.zeros(len(self.data.label), dtype=torch.float64, device=logits.device) for _ in range(2))
        counts = self.data.held_counts.double()
        total.index_put_((self.data.held,), logits * counts, accumulate=True)
        count.index_put_((self.data.held,), counts, accumulate=True)
        return (total / count).cpu().numpy()  # 0 / 0 is NaN


def _take(vectors: Tensor, rows: Tensor) -> Tensor:
    """(M, N, K) vectors and (M, B) rows per member -> (M, B, K)."""
    members, count, width = vectors.shape
    places = rows + torch.arange(members, device=rows.device)[:, None] * count
    return vectors.view(-1, width).index_select(0, places.view(-1)).view(members, -1, width)


def _sample(rows: Tensor, label: Tensor) -> Tensor:
    """At most _MONITORED_MEMES of the rows, every k-th of each label, so that prevalence is preserved."""
    return rows[label[rows].argsort(stable=True)][:: -(-len(rows) // _MONITORED_MEMES)]


def _rectangle(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of each member -> (M, longest) rows padded with 0, and (M, longest) mask, 0 for padding."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(part) for part in rows], device=padded.device)
    return padded, (torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]).float()


def _optimizer(flat: Tensor, config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop([flat], lr=rate, weight_decay=decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD([flat], lr=rate, weight_decay=decay, momentum=_MOMENTUM, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind([flat], lr=rate, weight_decay=decay, fused=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for small matrices: on two busy cores, synchronising threads made it 5 to 25 times slower, and sums, hence
    weights, would depend on the number of cores. Other cores train other trials."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
