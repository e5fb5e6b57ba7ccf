"""Training one fusion head on features in memory.

Knows nothing of the search for good settings, of test memes or of files; `python -m head tune` calls it once a trial.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from head.data import Features, check_trainable
from head.fusion import FusionHead, HeadConfig
from head.metrics import auroc

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
# HateCLIPper's value. With so few memes a batch, one odd meme would otherwise undo an epoch.
_GRADIENT_CLIP = 0.1
# Without momentum plain SGD needs several times the epochs.
_MOMENTUM = 0.9
# Memes a forward pass without gradients: bounds the memory on large sets and costs nothing on small ones.
_PREDICT_ROWS = 8192

OnEpoch = Callable[[int, float, float], None]
"""Called after each epoch with its number from 0, the validation loss and the validation AUROC; may raise to stop."""


class Diverged(ValueError):
    """No epoch of a training had a finite validation loss."""


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. Raises ValueError for what no training can use."""

    optimizer: str = "adamw"  # HateCLIPper
    learning_rate: float = 1e-4  # HateCLIPper
    weight_decay: float = 1e-4  # HateCLIPper
    batch_size: int = 32  # the papers use 16 to 64
    max_epochs: int = 40  # heads over hundreds of memes are past their best well before
    patience: int = 8  # epochs without a better validation loss; products of the sides start on a plateau
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


def train_head(
    head_config: HeadConfig,
    train_config: TrainConfig,
    features: Features,
    on_epoch: OnEpoch | None = None,
) -> FusionHead:
    """Fit a head to the train split and return it, in eval mode, as it was after its best epoch.

    The best epoch has the lowest validation loss: that is smoother than AUROC over a hundred memes, so its minimum is
    chosen less by luck, and the probabilities stay honest. The same seed gives the same weights; the global random
    state is as it was afterwards. Raises ValueError for unusable splits, Diverged, and whatever `on_epoch` raises.
    """
    check_trainable(features)
    # Initial weights and dropout draw from the global generators and take no other: they are lent and given back.
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.default_generator.manual_seed(train_config.seed)
        head = FusionHead(head_config)
        train = _tensors(features.only("train"))
        head.fit_scaling(*train[:2])
        _fit(head, train_config, train, features.only("validation"), on_epoch)
    return head.eval()


def predict(head: FusionHead, features: Features) -> np.ndarray:
    """(N,) float64: the probability that each meme is offensive."""
    return torch.sigmoid(_logits(head, features).double()).numpy()


def _fit(
    head: FusionHead, config: TrainConfig, train: list[Tensor], validation: Features, on_epoch: OnEpoch | None
) -> None:
    optimizer = _optimizer(head, config)
    order = torch.Generator().manual_seed(config.seed)
    target = torch.from_numpy(validation.label).float()
    best, best_epoch, state = float("inf"), 0, None
    for epoch in range(config.max_epochs):
        _run_epoch(head, optimizer, train, torch.randperm(len(train[2]), generator=order).split(config.batch_size))
        logits = _logits(head, validation)
        loss = F.binary_cross_entropy_with_logits(logits, target).item()
        if loss < best:
            best, best_epoch = loss, epoch
            state = {name: value.clone() for name, value in head.state_dict().items()}
        if on_epoch:
            on_epoch(epoch, loss, auroc(validation.label, torch.nan_to_num(logits).numpy()))
        if epoch - best_epoch >= config.patience:
            break
    if state is None:
        raise Diverged(f"{config}: the validation loss was never a finite number; lower the learning rate")
    head.load_state_dict(state)


def _run_epoch(
    head: FusionHead, optimizer: torch.optim.Optimizer, train: list[Tensor], batches: tuple[Tensor, ...]
) -> None:
    head.train()
    image, text, label = train
    for rows in batches:
        loss = F.binary_cross_entropy_with_logits(head(image[rows], text[rows]), label[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), _GRADIENT_CLIP)
        optimizer.step()


def _optimizer(head: FusionHead, config: TrainConfig) -> torch.optim.Optimizer:
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(head.parameters(), **settings)
    # One fused pass over the weights instead of one per operation: the step is half of the time of a small head.
    if config.optimizer == "sgd":
        return torch.optim.SGD(head.parameters(), **settings, momentum=_MOMENTUM, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(head.parameters(), **settings, fused=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for small matrices: on two busy cores, threads that wait for each other were 5 to 25 times slower,
    and the sums, hence the weights, no longer depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _logits(head: FusionHead, features: Features) -> Tensor:
    """(N,) logits in eval mode."""
    head.eval()
    image, text, _ = _tensors(features)
    parts = zip(image.split(_PREDICT_ROWS), text.split(_PREDICT_ROWS))
    return torch.cat([head(left, right) for left, right in parts])


def _tensors(features: Features) -> list[Tensor]:
    """(N, Di), (N, Dt) and (N,) float32 on the CPU."""
    parts = (features.image, features.text, features.label)
    return [torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts]
