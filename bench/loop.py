"""Peers of the tuning benchmark: a plain PyTorch loop and scikit-learn's MLPClassifier.

(a) a fusion head in plain PyTorch, folds trained one after another; (b) MLPClassifier on the concatenated vectors. Both
as in their documentation; each returns its folds' AUROC and a scoring function.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from head.data.features import Features

Score = Callable[[Features], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a trial, for all contenders. patience 0: no early stopping."""

    fusion: str
    width: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    epochs: int
    patience: int = 0


class PlainHead(nn.Module):
    """HateCLIPper's head: two linear maps, product or concatenation, one hidden layer."""

    def __init__(self, settings: Settings, image_dim: int, text_dim: int) -> None:
        super().__init__()
        self.product = settings.fusion == "align"
        self.image, self.text = nn.Linear(image_dim, settings.width), nn.Linear(text_dim, settings.width)
        fused = settings.width * (1 if self.product else 2)
        self.rest = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(fused, settings.width),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.width, 1),
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = self.image(image), self.text(text)
        if self.product:
            scale = image.shape[-1] ** 0.5
            fused = scale * F.normalize(image, dim=-1) * scale * F.normalize(text, dim=-1)
        else:
            fused = torch.cat((image, text), dim=-1)
        return self.rest(fused).squeeze(-1)


def plain_folds(
    settings: Settings,
    features: Features,
    members: list[tuple[np.ndarray, np.ndarray]],
    after_fold: Callable[[int, float], None] = lambda fold, mean: None,
) -> tuple[np.ndarray, Score]:
    """(a): AUROC of the M folds, (M,), and a function for the mean logit of their heads.

    members: (training rows, held-out rows) of each fold; after_fold: called with fold and mean AUROC, may raise to
    stop.
    """
    aurocs, heads = [], []
    for number, (train, held) in enumerate(members):
        torch.manual_seed(0)
        scalers = [StandardScaler().fit(_unit(side[train])) for side in (features.image, features.text)]
        rows, others = (_scaled(scalers, features.at(part)) for part in (train, held))
        label = torch.from_numpy(features.label[train]).float()
        head = _fit(
            PlainHead(settings, rows[0].shape[1], rows[1].shape[1]), settings, rows, label, others, features, held
        )
        with torch.inference_mode():
            aurocs.append(roc_auc_score(features.label[held], head(*others).numpy()))
        heads.append((scalers, head))
        after_fold(number, float(np.mean(aurocs)))

    @torch.inference_mode()
    def score(memes: Features) -> np.ndarray:
        return np.mean([head(*_scaled(scalers, memes)).numpy() for scalers, head in heads], axis=0)

    return np.array(aurocs), score


def _fit(
    head: PlainHead,
    settings: Settings,
    rows: list[Tensor],
    label: Tensor,
    others: list[Tensor],
    features: Features,
    held: np.ndarray,
) -> PlainHead:
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    target = torch.from_numpy(features.label[held]).float()
    best, since, state = float("inf"), 0, head.state_dict()
    for _ in range(settings.epochs):
        head.train()
        for batch in torch.randperm(len(label)).split(settings.batch_size):
            loss = F.binary_cross_entropy_with_logits(head(rows[0][batch], rows[1][batch]), label[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
        head.eval()
        with torch.inference_mode():
            held_loss = F.binary_cross_entropy_with_logits(head(*others), target).item()
        since += 1
        if held_loss < best:
            best, since, state = held_loss, 0, copy.deepcopy(head.state_dict())
        if settings.patience and since >= settings.patience:
            break
    head.load_state_dict(state)
    return head


def perceptron_folds(
    settings: Settings,
    features: Features,
    members: list[tuple[np.ndarray, np.ndarray]],
    after_fold: Callable[[int, float], None] = lambda fold, mean: None,
) -> tuple[np.ndarray, Score]:
    """(b): as `plain_folds`, with the mean probability of the perceptrons.

    Two hidden layers, as wide as the heads' maps and hidden layer; no dropout, no product of the sides.
    """
    aurocs, models = [], []
    for number, (train, held) in enumerate(members):
        scaler = StandardScaler().fit(_both(features.at(train)))
        model = MLPClassifier(
            (settings.width, settings.width),
            alpha=settings.weight_decay,
            batch_size=settings.batch_size,
            learning_rate_init=settings.learning_rate,
            max_iter=settings.epochs,
            n_iter_no_change=settings.patience or settings.epochs,
            early_stopping=bool(settings.patience),
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
            model.fit(scaler.transform(_both(features.at(train))), features.label[train])
        chances = model.predict_proba(scaler.transform(_both(features.at(held))))[:, 1]
        aurocs.append(roc_auc_score(features.label[held], chances))
        models.append((scaler, model))
        after_fold(number, float(np.mean(aurocs)))

    def score(memes: Features) -> np.ndarray:
        return np.mean([model.predict_proba(scaler.transform(_both(memes)))[:, 1] for scaler, model in models], axis=0)

    return np.array(aurocs), score


def _scaled(scalers: list[StandardScaler], memes: Features) -> list[Tensor]:
    sides = (memes.image, memes.text)
    return [torch.from_numpy(scaler.transform(_unit(side)).astype(np.float32)) for scaler, side in zip(scalers, sides)]


def _both(memes: Features) -> np.ndarray:
    return np.concatenate((_unit(memes.image), _unit(memes.text)), axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
