"""Train the last encoder blocks and the heads together, at several small learning rates.

Linear probing, then fine-tuning: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution" (2022). Works on rows, weights and a checkpoint; independent of CLIP and of bundles.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from finetune.checkpoint import Checkpoint
from head.data.ranking import auroc
from head.judge.calibration import Calibration
from head.model.ensemble import HeadEnsemble
from head.model.fusion import Dropout

# Adam's best learning rate falls with a model's width (Yang et al., "Tensor Programs V: Tuning Large Neural Networks via
# Zero-Shot Hyperparameter Transfer", 2022): this gives 1e-5 for ViT-L/14, of width 1024. On the demo, of width 96, 1e-4 with
# batches of 32 was the best of 1e-5 to 3e-4 and 8 to 64, on train and validation memes used for nothing else.
_RATE_TIMES_WIDTH = 0.01
# About half a decade apart: the best rate also depends on the memes.
_FACTORS = (0.3, 1.0, 3.0)
# Norm of all gradients together, as in CLIP's own training (open_clip's `--grad-clip-norm`).
_GRADIENT_CLIP = 1.0
# Share of all steps over which the learning rate rises from 0: without warm-up Adam's first steps, before it has estimated
# the gradients' size, would be its largest.
_WARM_UP = 0.1
# AdamW's state of each weight.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# Memes per forward pass without gradients.
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of one training. Raises ValueError for values out of range."""

    learning_rate: float
    epochs: int = 4  # the rate falls to 0 by the last; on the demo the best epochs were the first three
    batch_size: int = 32  # measured as above; papers on memes use 16 to 64
    weight_decay: float = 0.01  # torch's default for AdamW; at such rates it hardly changes a weight
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {getattr(self, name)}")


def usual_rates(width: int) -> list[float]:
    """The learning rates to try for an encoder whose blocks are `width` wide, rounded to two digits."""
    return [float(f"{factor * _RATE_TIMES_WIDTH / width:.1e}") for factor in _FACTORS]


class VectorSource(Protocol):
    """Makes vectors with the encoder as it is now."""

    def features(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The vectors of N rows, (N, Di) and (N, Dt) float32, with gradients."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows (N,) int64 of the index, and their labels (N,) of 0 and 1."""

    rows: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """The memes that are trained on, and those that select the learning rate and the epoch."""

    train: LabelledRows
    validation: LabelledRows


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training. history: one entry per epoch, epoch 0 being the start; logits: (E, V) float64, of the validation
    memes after each epoch; best: weights after the best epoch; seconds: of all epochs; rate: memes trained on per second,
    without validation."""

    config: FinetuneConfig
    history: list[dict[str, Any]]
    logits: np.ndarray
    best: dict[str, Tensor]
    seconds: float
    rate: float

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss; 0 if none improved on the start."""
        return _best(self.history)

    @property
    def loss(self) -> float:
        """Validation loss after the best epoch."""
        return float(self.history[self.best_epoch]["validation_loss"])


class Model:
    """Probabilities as the server gives them: sigmoid(slope * ensemble logit + offset). weights: {name: parameter} that are
    trained, of the encoder and of the heads."""

    def __init__(
        self,
        source: VectorSource,
        ensemble: HeadEnsemble,
        calibration: Calibration,
        weights: dict[str, nn.Parameter],
    ) -> None:
        self.ensemble, self.weights = ensemble, weights
        self._source, self._calibration = source, calibration

    def logits(self, rows: np.ndarray) -> Tensor:
        """(N,) calibrated logits, with gradients."""
        return self._calibration.slope * self.ensemble(*self._source.features(rows)) + self._calibration.offset

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(N,) calibrated logits, float64, in eval mode."""
        self.ensemble.eval()
        return torch.cat([self.logits(part) for part in _batches(rows, _EVALUATION_BATCH)]).double().cpu().numpy()


def train_rates(
    model: Model, split: Split, trainings: Sequence[tuple[FinetuneConfig, Checkpoint]], say: Callable[[str], None]
) -> list[Run]:
    """Train with each of the settings from the same start; the runs, lowest validation loss first (stable).

    The model keeps the weights of the first run's best epoch, which may be the start. Each checkpoint is as in `Training`.
    """
    start, runs = _copied(model.weights), []
    for config, checkpoint in trainings:
        _load_weights(model.weights, start)
        runs.append(Training(model, split, config, checkpoint, say).run())
    runs.sort(key=lambda run: run.loss)
    _load_weights(model.weights, runs[0].best)
    return runs


def cross_fitted_logits(runs: Sequence[Run], label: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(V,) logits of the validation memes, those of each part after the rate and epoch that the other parts select.

    part: (V,) int64; -1 for memes in none, whose logits are NaN.
    """
    logits = np.concatenate([run.logits for run in runs])  # (rates x epochs, V)
    with np.errstate(invalid="ignore"):
        losses = np.nan_to_num(np.logaddexp(0, logits) - label * logits, nan=np.inf, posinf=np.inf)
    out = np.full(len(label), np.nan)
    for one in range(part.max() + 1):
        out[part == one] = logits[losses[:, part != one].mean(axis=1).argmin(), part == one]
    return out


class Training:
    """Trains the model's weights in place.

    checkpoint: written after each epoch; if it holds epochs of the same training, continues after them. The same seed
    gives the same weights on a CPU, interrupted or not; the global random state is restored afterwards.
    """

    def __init__(
        self, model: Model, split: Split, config: FinetuneConfig, checkpoint: Checkpoint, say: Callable[[str], None]
    ) -> None:
        self._model, self._weights, self._config, self._checkpoint = model, model.weights, config, checkpoint
        self._train, self._validation, self._say = split.train, split.validation, say
        self._optimizer = torch.optim.AdamW(
            [*self._weights.values()], lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._steps = math.ceil(len(self._train.rows) / config.batch_size)  # per epoch
        self._history: list[dict[str, Any]] = []
        self._logits: list[np.ndarray] = []
        self._best = _copied(self._weights)
        self._training = 0.0  # seconds, without validation
        self._seconds = 0.0

    def run(self) -> Run:
        """Train all epochs; on KeyboardInterrupt the checkpoint holds the finished ones."""
        with torch.random.fork_rng():
            self._run()
        trained = len(self._train.rows) * (len(self._history) - 1)
        rate = trained / max(self._training, 1e-9)
        return Run(self._config, self._history, np.stack(self._logits), self._best, self._seconds, rate)

    def _run(self) -> None:
        self._resume()
        if not self._history:
            self._validate(0, None)
        while len(self._history) <= self._config.epochs:
            started = time.monotonic()
            loss = self._epoch(len(self._history))
            self._training += time.monotonic() - started
            self._validate(len(self._history), loss)
            self._seconds += time.monotonic() - started
            self._save()

    def _epoch(self, epoch: int) -> float:
        """Train one epoch; the mean training loss of its batches."""
        self._seed(epoch)
        self._model.ensemble.train()
        order = torch.randperm(len(self._train.rows)).numpy()
        total = 0.0
        with tqdm(total=len(order), desc=f"epoch {epoch} of {self._config.epochs}", unit=" memes") as bar:
            for step, places in enumerate(_batches(order, self._config.batch_size)):
                self._set_rate((epoch - 1) * self._steps + step)
                label = torch.from_numpy(self._train.label[places])
                logits = self._model.logits(self._train.rows[places])
                loss = F.binary_cross_entropy_with_logits(logits, label.to(logits))
                self._optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self._weights.values(), _GRADIENT_CLIP)
                self._optimizer.step()
                total += float(loss.detach()) * len(places)
                bar.update(len(places))
        return total / len(order)

    def _validate(self, epoch: int, train_loss: float | None) -> None:
        label, logits = self._validation.label, self._model.predict(self._validation.rows)
        self._logits.append(logits)
        loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(label).double())
        losses = {"train_loss": _finite(train_loss), "validation_loss": _finite(float(loss))}
        self._history.append({"epoch": epoch, **losses, "validation_auroc": auroc(label, logits)})
        if _best(self._history) == epoch:
            self._best = _copied(self._weights)
        self._say(_line(self._history[-1]))

    def _seed(self, epoch: int) -> None:
        """Seed by epoch: an epoch is the same whether earlier ones ran in this process or before an interruption."""
        torch.manual_seed(int(np.random.SeedSequence([self._config.seed, epoch]).generate_state(1)[0]))
        for module in self._model.ensemble.modules():
            if isinstance(module, Dropout):
                module.redraw()

    def _set_rate(self, step: int) -> None:
        """Linear warm-up, then cosine decay to 0 at the end of the last epoch (Loshchilov and Hutter, "SGDR", 2017)."""
        whole = self._config.epochs * self._steps
        rising = max(1, round(_WARM_UP * whole))
        share = (
            (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * (step - rising) / (whole - rising)))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = share * self._config.learning_rate

    def _save(self) -> None:
        tensors = {f"now/{name}": weight.detach() for name, weight in self._weights.items()}
        tensors |= {f"best/{name}": weight for name, weight in self._best.items()}
        for name, weight in self._weights.items():
            tensors |= {f"{key}/{name}": value for key, value in self._optimizer.state[weight].items()}
        tensors["logits"] = torch.from_numpy(np.stack(self._logits))
        values = {"history": self._history, "training": self._training, "seconds": self._seconds}
        self._checkpoint.write(tensors, values)

    def _resume(self) -> None:
        found = self._checkpoint.read()
        if found is None:
            return
        tensors, values = found
        self._history, self._training, self._seconds = values["history"], values["training"], values["seconds"]
        self._logits = list(tensors["logits"].numpy())
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"now/{name}"])
                self._best[name] = tensors[f"best/{name}"].to(weight.device)
                state = {key: tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in tensors}
                if state:  # torch keeps the step counter on the CPU
                    self._optimizer.state[weight] = {
                        key: value if key == "step" else value.to(weight.device) for key, value in state.items()
                    }


def _line(entry: dict[str, Any]) -> str:
    """A history entry as a line of the log."""
    train, loss, area = (_figure(entry[name]) for name in ("train_loss", "validation_loss", "validation_auroc"))
    trained = f"train loss {train}" if entry["epoch"] else "frozen head"
    return f"epoch {entry['epoch']}: {trained}; validation loss {loss}, AUROC {area}"


def _best(history: list[dict[str, Any]]) -> int:
    """The epoch with the lowest validation loss, the first of equals."""
    losses = [entry["validation_loss"] for entry in history]
    return min(range(len(losses)), key=lambda epoch: math.inf if losses[epoch] is None else losses[epoch])


def _finite(loss: float | None) -> float | None:
    """None for a missing, infinite or NaN loss, which JSON cannot hold."""
    return loss if loss is not None and math.isfinite(loss) else None


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _copied(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def _load_weights(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
