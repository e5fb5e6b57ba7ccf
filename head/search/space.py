"""The search space of heads and training settings, and the published recipes that a search starts with."""

import math
from typing import Any

from optuna import Trial

from head.model.fusion import FUSIONS, OUTPUTS, HeadConfig
from head.model.losses import LOSSES, LossConfig
from head.model.training import OPTIMIZERS, TrainConfig

# Ranges of the learning rate per optimizer. AdamW's includes HateCLIPper's 1e-4; SGD's is high, since gradients are clipped
# to .1.
_RATES = {"adamw": (3e-5, 3e-3), "adam": (3e-5, 3e-3), "sgd": (3e-2, 3.0), "rmsprop": (1e-5, 1e-3)}
# The papers map to 1024: ten times slower and no better with hundreds of memes. With a hundred thousand memes even 512 takes
# hours on two cores.
_WIDTHS, _WIDTHS_OF_THOUSANDS = (32, 64, 128), (128, 256)
# Principal components: hundreds of memes span no more useful directions.
_COMPONENTS, _COMPONENTS_OF_THOUSANDS = (32, 64, 128), (128,)
# See `head.model.scaling.Scaling`; with thousands of memes each choice takes gigabytes.
_SPECTRA, _SPECTRA_OF_THOUSANDS = (0, 1, 2), (2,)
# A step costs about the same for 16 memes as for 32.
_BATCHES, _BATCHES_OF_THOUSANDS = (32, 64, 128), (128, 256, 512)
_THOUSANDS = 4000
# Suffix of kinds with agreement inputs: the inputs matter more than any other choice.
_AGREEMENT = "+agreement"
# The papers' learning rate needs about two thousand steps: few epochs with thousands of memes, many with hundreds.
_RECIPE_STEPS, _RECIPE_PATIENCE = 2000, 10
_EPOCHS, _MOST_EPOCHS = 30, 240
# Differences from the published settings, as shown in the report.
DIFFERENCES = (
    "Unlike in their papers, sides are standardised and reduced to principal components, mapped to a smaller width (the "
    "papers: 1024), heads have one logit instead of two, training stops early on held-out memes, and RGCL's retrieved "
    "neighbours are encoded once per epoch instead of at every step. Learning rate, optimizer, dropout, depth and loss are "
    "the papers'; recipes train until the held-out loss no longer falls."
)


class Space:
    """The search space. dims: {"image_dim", "text_dim", "joint"}, widths of the vectors; memes: how many are tuned on.

    kinds: inputs of a head, such as "align" or "align+agreement"; without a shared space there is no agreement.
    """

    def __init__(self, dims: dict[str, int], memes: int) -> None:
        self._dims = dims
        alone = tuple(fusion for fusion in FUSIONS if fusion != "agreement")
        agreeing = ("agreement", *(fusion + _AGREEMENT for fusion in alone))
        self.kinds = alone + (agreeing if dims.get("joint") else ())
        self._many = many = memes >= _THOUSANDS
        self._widths = _WIDTHS_OF_THOUSANDS if many else _WIDTHS
        self._batches = _BATCHES_OF_THOUSANDS if many else _BATCHES
        passes = round(_RECIPE_STEPS * self._batches[1] / memes)
        self._recipe_epochs = min(max(passes, _EPOCHS), _MOST_EPOCHS)
        largest = max(dims["image_dim"], dims["text_dim"])
        # more components than columns are equivalent to all columns
        wanted = _COMPONENTS_OF_THOUSANDS if many else _COMPONENTS
        self._components = tuple(sorted({min(count, largest) for count in wanted}))

    def suggest(self, trial: Trial, seed: int, recipe: bool = False) -> tuple[HeadConfig, TrainConfig]:
        """Sample one point; a recipe trains longer, until it converges. All trials have the same parameters, since multivariate
        TPE samples conditional ones at random; hence the learning rate as a position in its optimizer's range."""
        width = trial.suggest_categorical("width", self._widths)
        fusion, _, agreement = trial.suggest_categorical("kind", self.kinds).partition("+")
        head = HeadConfig(
            **self._dims,
            fusion=fusion,
            agreement=bool(agreement),
            centred=trial.suggest_categorical("centred", (False, True)),
            components=trial.suggest_categorical("components", self._components),
            spectrum=trial.suggest_categorical("spectrum", _SPECTRA_OF_THOUSANDS if self._many else _SPECTRA),
            adapter=trial.suggest_categorical("adapter", (0, 16, 64)),
            width=width,
            depth=trial.suggest_int("depth", 0, 3),
            hidden=width,
            output=trial.suggest_categorical("output", OUTPUTS),
            map_dropout=trial.suggest_float("map_dropout", 0.0, 0.6),
            dropout=trial.suggest_float("dropout", 0.0, 0.6),
        )
        optimizer = trial.suggest_categorical("optimizer", OPTIMIZERS)
        low, high = _RATES[optimizer]
        train = TrainConfig(
            optimizer=optimizer,
            learning_rate=low * (high / low) ** trial.suggest_float("learning_rate_position", 0.0, 1.0),
            weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            batch_size=trial.suggest_categorical("batch_size", self._batches),
            max_epochs=self._recipe_epochs if recipe else _EPOCHS,
            patience=_RECIPE_PATIENCE if recipe else TrainConfig.patience,
            loss=LossConfig(
                kind=trial.suggest_categorical("loss", LOSSES),
                class_weight=trial.suggest_categorical("class_weight", (False, True)),
                smoothing=trial.suggest_float("label_smoothing", 0.0, 0.2),
                contrastive=trial.suggest_categorical("contrastive", (0.0, 0.5)),
            ),
            seed=seed,
        )
        return head, train

    def recipes(self) -> dict[str, dict[str, Any]]:
        """{name: parameters} of published settings, except for DIFFERENCES."""
        low, high = _RATES["adamw"]
        shared = {
            "centred": True,
            "components": self._components[-1],
            "spectrum": 2,
            "adapter": 0,
            "width": self._widths[-1],
            "depth": 1,
            "output": "linear",
            "map_dropout": 0.2,
            "dropout": 0.4,
            "optimizer": "adamw",
            "learning_rate_position": math.log(1e-4 / low) / math.log(high / low),
            "weight_decay": 1e-4,
            "batch_size": self._batches[1],
            "loss": "bce",
            "class_weight": False,
            "label_smoothing": 0.0,
            "contrastive": 0.0,
        }
        return {
            "HateCLIPper, align": {**shared, "kind": "align"},
            "linear probe": {**shared, "kind": "linear", "depth": 0, "dropout": 0.0},
            "ISSUES, combiner": {**shared, "kind": "combiner"},
            "RGCL": {**shared, "kind": "align", "contrastive": 0.5},
            "HateCLIPper, cross": {**shared, "kind": "cross"},
            "MemeCLIP": {**shared, "kind": "align", "adapter": 64, "output": "cosine", "depth": 0},
        }
