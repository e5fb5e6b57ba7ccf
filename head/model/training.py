"""Training the members of a head together, on features in memory.

A member is one fold of one repeat: it has train memes, held-out memes and weights of its own. All members of a trial
take each step together, as batched products over stacked weights; none sees another's. Knows nothing of the search for
good settings, of test memes or of files; `python -m head tune` calls it once a trial.
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
# HateCLIPper's value. With so few memes a batch, one odd meme would otherwise undo an epoch.
_GRADIENT_CLIP = 0.1
# Without momentum plain SGD needs several times the epochs.
_MOMENTUM = 0.9
# An epoch is one pass over the train memes, or over this many drawn anew: a hundred thousand memes are judged, stopped
# and pruned as often as hundreds are, and thirty epochs of them are the few passes that they need.
_EPOCH_MEMES = 8192
# Held-out memes that a member is judged by after each epoch: all of a small set, a sample of a large one, whose AUROC
# a sample of this size tells to .01.
_JUDGED_MEMES = 4096
# Memes among which neighbours are retrieved: all of a small set, a fresh sample of a large one.
_BANK_MEMES = 1024
# Memes a forward pass without gradients: bounds the memory on large sets and costs nothing on small ones.
_PREDICT_ROWS = 8192

OnEpoch = Callable[[int, float], None]
"""Called after each epoch with its number from 0 and the mean over the members of their AUROC so far on the memes held
out, each at its best epoch; may raise to stop."""


class Diverged(ValueError):
    """A member of a training had no epoch with a finite loss on the memes held out."""


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. Raises ValueError for what no training can use."""

    optimizer: str = "adamw"  # HateCLIPper
    learning_rate: float = 1e-4  # HateCLIPper
    weight_decay: float = 1e-4  # HateCLIPper
    batch_size: int = 32  # the papers use 16 to 64
    max_epochs: int = 30  # heads over hundreds of memes are past their best well before
    patience: int = 5  # epochs without a better loss; products of the sides start on a plateau
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
        """Back from `dataclasses.asdict`."""
        return cls(**{**values, "loss": LossConfig(**values["loss"])})


class TrainingSet:
    """Memes and the members' shares of them, scaled once for all trials; the vectors stay on the device."""

    def __init__(
        self, features: Features, members: Members, device: torch.device, parts: np.ndarray | None = None
    ) -> None:
        """members: the rows of `features` that each trains on and those held out from it, both with both labels; parts: (N,)
        int64, see `head.data.folds.parts`, None for none."""
        self.device, self.members = device, len(members)
        self.rows = [torch.from_numpy(member[0]).to(device) for member in members]
        self.label = torch.from_numpy(features.label).to(device, torch.float32)  # (N,)
        self._features = features
        held = [torch.from_numpy(member[1]).to(device) for member in members]
        self.held, self.held_counts = _rectangle(held)  # (M, H) each
        self.judges, self.judge_counts = _rectangle([_sample(rows, self.label) for rows in held])  # (M, J) each
        self.parts = np.full(len(features), -1) if parts is None else parts
        in_train = torch.zeros(len(members), len(features), device=device)
        for member, rows in enumerate(self.rows):
            in_train[member, rows] = 1
        self.balance = class_weights(self.label.expand(len(members), -1), in_train)  # (M, N)
        self._scaled: dict[tuple[Any, ...], tuple[nn.Module, Tensor]] = {}

    def scaled(self, name: str, config: HeadConfig) -> tuple[nn.Module, Tensor]:
        """The members' scalings of a side, or of the sides' agreement, and all memes scaled by them, (M, N, width)."""
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
    """head: M members in eval mode, each as it was after its best epoch; auroc: (M,) float64, of each member on the
    memes it was judged on; without: (P,) float64, for each part the members' mean AUROC on memes of other parts; logits:
    (N,) float64, the mean over the members that held a meme out, NaN where none did."""

    head: FusionHead
    auroc: np.ndarray
    without: np.ndarray
    logits: np.ndarray


def train_head(
    head_config: HeadConfig, train_config: TrainConfig, data: TrainingSet, on_epoch: OnEpoch | None = None
) -> Trained:
    """Fit the members to their train memes, with early stopping for each.

    The best epoch has the lowest loss on the memes held out: that is smoother than AUROC over a hundred memes, so its
    minimum is chosen less by luck, and the probabilities stay honest. The same seed gives the same weights; the
    global random state is as it was afterwards. Raises Diverged, and whatever `on_epoch` raises.
    """
    # Initial weights and dropout draw from the global generators and take no other: they are lent and given back.
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(train_config.seed)
        head = FusionHead(head_config, data.members)
        scaled = {}
        for name in head.scaling:
            head.scaling[name], scaled[name] = data.scaled(name, head_config)
        fit = _Fit(head.to(data.device), train_config, data, scaled)
        return fit.run(on_epoch)


class _Fit:
    """One training: the weights of all members as one (M, P) tensor, of which the head's parameters are views.

    One tensor makes the optimizer's step, the clipping of each member's gradient and the keeping of its best weights
    one operation each, instead of one for every parameter.
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
        self.judges = self._rows(data.judges)
        self.judge_label = data.label[data.judges]

    def run(self, on_epoch: OnEpoch | None) -> Trained:
        members = self.data.members
        best_loss = torch.full((members,), torch.inf, device=self.data.device)
        best, best_logits = self.flat.clone(), torch.zeros_like(self.judge_label)
        since = torch.zeros_like(best_loss)
        for epoch in range(self.config.max_epochs):
            self._epoch()
            loss, logits = self._judge()
            # never for NaN; a member that has stopped stays as it was, while the others go on
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
            self._step(loss.sum())  # the members share no weight, so the sum's gradient is each one's own

    def _step(self, loss: Tensor) -> None:
        gradient = torch.cat([part.flatten(1) for part in torch.autograd.grad(loss, self.parameters)], dim=1)  # (M, P)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (M, 1)
        gradient.mul_((_GRADIENT_CLIP / (norm + 1e-6)).clamp(max=1.0))  # as torch.nn.utils.clip_grad_norm_
        self.flat.grad = gradient
        self.optimizer.step()

    def _shuffled(self, rows: Tensor, length: int) -> Tensor:
        """As many of the rows, in a new order. A member with fewer than another takes its first ones twice: a batch that
        holds none of its memes would have no mean loss."""
        order = torch.randperm(len(rows), generator=self.generator).to(rows.device)
        return rows[order[torch.arange(length, device=rows.device) % len(rows)]]

    @torch.no_grad()
    def _neighbours(self, order: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """For each meme of the epoch, (M, L), its nearest meme of the same and of the other label, (M, L, H) each, as the
        head embeds them at the epoch's beginning."""
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
    def _judge(self) -> tuple[Tensor, Tensor]:
        """Loss (M,) and logits (M, J) of each member on the memes that it is judged by."""
        self.head.eval()
        logits = self.head.logits(self._embedded(self.judges))
        weight = self.data.judge_counts
        if self.config.loss.class_weight:
            weight = weight * self.data.balance.gather(1, self.data.judges)
        return classification_loss(self.config.loss, logits, self.judge_label, weight), logits

    def _embedded(self, scaled: dict[str, Tensor]) -> Tensor:
        """{side: (M, N, K)} -> (M, N, H), some rows at a time."""
        parts = zip(*(vectors.split(_PREDICT_ROWS, dim=1) for vectors in scaled.values()))
        return torch.cat([self.head.embed(dict(zip(scaled, part))) for part in parts], dim=1)

    def _aurocs(self, logits: Tensor, counts: Tensor | None = None) -> np.ndarray:
        arrays = (self.judge_label, torch.nan_to_num(logits), self.data.judge_counts if counts is None else counts)
        return aurocs(*(array.cpu().numpy() for array in arrays))

    def _without(self, logits: Tensor) -> np.ndarray:
        part = torch.from_numpy(self.data.parts).to(logits.device)[self.data.judges]  # (M, J)
        found = [
            self._aurocs(logits, self.data.judge_counts * (part != one)) for one in range(self.data.parts.max() + 1)
        ]
        return np.array([np.mean(one[np.isfinite(one)]) if np.isfinite(one).any() else 0.5 for one in found])

    @torch.no_grad()
    def _out_of_fold(self) -> np.ndarray:
        """(N,) mean logit over the members that held a meme out, NaN where none did."""
        logits = self.head.logits(self._embedded(self._rows(self.data.held))).double()  # (M, H)
        total, count = (torch.zeros(len(self.data.label), dtype=torch.float64, device=logits.device) for _ in range(2))
        counts = self.data.held_counts.double()
        total.index_put_((self.data.held,), logits * counts, accumulate=True)
        count.index_put_((self.data.held,), counts, accumulate=True)
        return (total / count).cpu().numpy()  # 0 / 0 is NaN


def _take(vectors: Tensor, rows: Tensor) -> Tensor:
    """(M, N, K) and (M, B) rows, each member's own -> (M, B, K)."""
    members, count, width = vectors.shape
    places = rows + torch.arange(members, device=rows.device)[:, None] * count
    return vectors.view(-1, width).index_select(0, places.view(-1)).view(members, -1, width)


def _sample(rows: Tensor, label: Tensor) -> Tensor:
    """At most _JUDGED_MEMES of the rows, every k-th of those of each label, so that the labels keep their shares."""
    return rows[label[rows].argsort(stable=True)][:: -(-len(rows) // _JUDGED_MEMES)]


def _rectangle(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of each member -> (M, longest) rows, and (M, longest) 1 where there is one, 0 where row 0 fills the place."""
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
    """One thread for small matrices: on two busy cores, threads that wait for each other were 5 to 25 times slower,
    and the sums, hence the weights, no longer depend on the number of cores. Several cores train several trials."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
