"""From a tuned bundle to a fine-tuned one: what `make finetune` does, without a command line and without output.

prepared = prepare(FinetuneRequest(bundle, artifacts, Unfreezing(blocks=2)))
finetuned = finetune(prepared, say)
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import Layout, require_same_spec
from embed.clip.delta import DELTA
from embed.clip.hardware import choose_device
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.unfrozen import Unfreezing, UnfrozenEncoder, load_unfrozen
from finetune import TOWERS
from finetune.activations import ActivationCache
from finetune.checkpoint import Checkpoint
from finetune.finish import TrainedHeads, embed_finetuned, save_finetuned
from finetune.start import Start, UnusableStart, encoder_of, frozen_head, read_start, sides_of
from finetune.train import (
    FinetuneConfig,
    LabelledRows,
    Model,
    Run,
    Split,
    cross_fitted_logits,
    train_rates,
    usual_rates,
)
from head.bundle.versions import use
from head.data.features import usable_rows
from head.judge.calibrated import CalibratedMethod
from head.model.ensemble import HeadEnsemble

# Blocks narrower than this, as no published CLIP has, are too little work to divide between cores.
_NARROW = 256


@dataclass(frozen=True)
class FinetuneRequest:
    """bundle: folder of a tuned bundle; artifacts: folder of vectors and results; learning_rate: None to try three that suit
    the encoder's width; epochs: with each learning rate; device: one of `embed.clip.options.DEVICES`."""

    bundle: Path
    artifacts: Path
    unfreezing: Unfreezing
    learning_rate: float | None = None
    epochs: int = FinetuneConfig.epochs
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a training needs. unfreezing: without the towers that no head reads; frozen: the head on the frozen encoder,
    start and baseline; encoder: with unfrozen blocks; trainings: one per learning rate."""

    start: Start
    unfreezing: Unfreezing
    frozen: CalibratedMethod
    encoder: UnfrozenEncoder
    trainings: list[tuple[FinetuneConfig, Checkpoint]]
    split: Split


@dataclass(frozen=True, eq=False)
class Finetuned:
    """best: the run with the lowest validation loss; bundle, config: of what was written, None where no epoch improved on the
    frozen head; taken: what `head.bundle.versions.use` says."""

    best: Run
    bundle: Path | None = None
    config: dict[str, Any] | None = None
    taken: str = ""


def prepare(request: FinetuneRequest) -> Prepared:
    """Read the bundle and its memes, fit the frozen head, load the encoder. Raises what `read_start`, `frozen_head` and
    `load_unfrozen` raise, and UnusableStart where the heads read none of the unfrozen towers."""
    start = read_start(request.bundle, request.artifacts)
    frozen = frozen_head(start)
    unfreezing = _read_towers(request.unfreezing, _ensemble(frozen))
    encoder = _load_encoder(start, unfreezing, request.device, request.seed)
    rates = usual_rates(encoder.width) if request.learning_rate is None else [request.learning_rate]
    trainings = []
    for number, rate in enumerate(rates):
        config = FinetuneConfig(rate, request.epochs, seed=request.seed)
        trainings.append((config, Checkpoint(start.work, _identity(start, unfreezing, config, encoder), number)))
    return Prepared(start, unfreezing, frozen, encoder, trainings, _split(start))


def finetune(prepared: Prepared, say: Callable[[str], None]) -> Finetuned:
    """Train, and write a bundle if an epoch improved on the frozen head; `say` gets a line per epoch.

    Finished epochs are kept in checkpoints until the end, so that an interrupted call can be repeated. Raises
    ChangedPicture, UnusableStart, OSError.
    """
    start, encoder, split = prepared.start, prepared.encoder, prepared.split
    ensemble = copy.deepcopy(_ensemble(prepared.frozen))
    cache = ActivationCache(encoder, start.index, start.root, start.work)
    ensemble.to(encoder.encoder.device)
    weights = {f"encoder/{name}": weight for name, weight in encoder.weights.items()}
    weights |= {f"head/{name}": weight for name, weight in ensemble.named_parameters()}
    model = Model(cache, ensemble, prepared.frozen.calibration, weights)
    with _threads(encoder.width):
        cache.fill(_all_rows(start))
        runs = train_rates(model, split, prepared.trainings, say)
    version, taken = None, ""
    if runs[0].best_epoch:
        file = embed_finetuned(start, encoder.delta(), encoder.encoder.device.type, say)
        logits = cross_fitted_logits(runs, split.validation.label, start.parts[start.folds == 0])
        facts = _facts(prepared, runs, sum(weight.numel() for weight in weights.values()))
        version = save_finetuned(start, file, prepared.frozen, TrainedHeads(ensemble.cpu(), logits), facts)
        taken = use(Layout(start.artifacts), version.folder)
        (start.work / DELTA).unlink()
    for _, checkpoint in prepared.trainings:
        checkpoint.discard()
    if version is None:
        return Finetuned(runs[0])
    return Finetuned(runs[0], version.folder, version.config, taken)


def describe_unfreezing(unfreezing: Unfreezing) -> dict[str, Any]:
    """{"blocks", "towers", "lora"}, with the values of the command line and of config.json."""
    towers = next(name for name, sides in TOWERS.items() if set(sides) == set(unfreezing.sides))
    return {"blocks": unfreezing.blocks, "towers": towers, "lora": unfreezing.rank}


def _ensemble(method: CalibratedMethod) -> HeadEnsemble:
    assert method.method.ensemble is not None  # the frozen head always has one
    return method.method.ensemble


@contextmanager
def _threads(width: int) -> Iterator[None]:
    """One thread for a narrow encoder: on two busy cores, synchronising threads made it 10 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if width < _NARROW else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read_towers(unfreezing: Unfreezing, ensemble: HeadEnsemble) -> Unfreezing:
    """Without the towers whose vectors no head reads. Raises UnusableStart where none is left."""
    read = sides_of(ensemble)
    sides = tuple(side for side in unfreezing.sides if side in read)
    if not sides:
        other = next(iter(read))
        raise UnusableStart(f"the heads of this bundle read {other} vectors alone; use --towers {other}")
    return replace(unfreezing, sides=sides)


def _load_encoder(start: Start, unfreezing: Unfreezing, device: str, seed: int) -> UnfrozenEncoder:
    spec = start.config["spec"]
    encoder = load_unfrozen(
        EncoderRequest(*encoder_of(start), EncoderOptions.of_spec(spec)), choose_device(device), unfreezing, seed
    )
    require_same_spec(spec, encoder.encoder.spec, f"the bundle {start.config['name']} and the encoder that was loaded")
    return encoder


def _identity(start: Start, unfreezing: Unfreezing, config: FinetuneConfig, encoder: UnfrozenEncoder) -> dict[str, Any]:
    """What must be equal for an interrupted training to continue."""
    return {
        "version": start.config["version"],
        "fingerprint": start.fingerprint,
        "unfreezing": asdict(unfreezing),
        "config": asdict(config),
        "device": encoder.encoder.device.type,
    }


def _all_rows(start: Start) -> np.ndarray:
    """(N,) rows in the index of the memes of train and validation."""
    place = {start.index.ids[row]: row for row in usable_rows(start.index)}
    return np.array([place[name] for name in start.features.ids.tolist()])


def _split(start: Start) -> Split:
    rows, label, held = _all_rows(start), start.features.label, start.folds == 0
    return Split(LabelledRows(rows[~held], label[~held]), LabelledRows(rows[held], label[held]))


def _facts(prepared: Prepared, runs: list[Run], weights: int) -> dict[str, Any]:
    """The entry "finetuned" of config.json."""
    start, best = prepared.start, runs[0]
    return {
        "from": {name: start.config[name] for name in ("name", "version")},
        **describe_unfreezing(prepared.unfreezing),
        "learning_rate": best.config.learning_rate,
        "epochs": best.config.epochs,
        "best_epoch": best.best_epoch,
        "history": best.history,
        "tried": [
            {"learning_rate": run.config.learning_rate, "best_epoch": run.best_epoch, "validation_loss": run.loss}
            for run in sorted(runs, key=lambda run: run.config.learning_rate)
        ],
        "trained": weights,
        "seconds": sum(run.seconds for run in runs),
        "memes_per_second": best.rate,
        "frozen_index": Path(start.config["data"]["index"]).name,
        "frozen_fingerprint": start.fingerprint,
    }
