"""Fine-tune the last blocks of the encoder under a tuned head, and write a bundle with what that changed.

    python -m finetune --bundle artifacts/bundles/latest --blocks 2
    python -m finetune --bundle artifacts/bundles/latest --lora 8

Needs the data folder that the bundle was tuned on. Trains on train, stops by validation, and never looks at test, which
`python -m report` does, once. Exit codes: 0 done, also where fine-tuning gained nothing and no bundle was written; 2
something to put right, said in a sentence; 130 stopped by Ctrl-C, and the same command goes on.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import limit_threads, refuse, require_same_spec
from embed.clip.delta import DELTA
from embed.clip.hardware import choose_device
from embed.clip.options import DEVICES, EncoderOptions
from embed.clip.unfrozen import SIDES, Unfreezing, UnfrozenEncoder, load_unfrozen
from finetune.checkpoint import Checkpoint
from finetune.finish import embed_finetuned, save_finetuned
from finetune.kept import Memes
from finetune.start import Start, UnusableStart, encoder_of, frozen_head, read_start, sides_of
from finetune.train import FinetuneConfig, Model, Run, Share, crossed_logits, train_rates, usual_rates
from head.data.features import usable_rows
from head.judge.verdict import metrics_table, unfrozen_words
from head.model.ensemble import HeadEnsemble

# Narrower blocks than these, of which no published CLIP has any, are too little work to share between cores.
_NARROW = 256
TOWERS = {"both": SIDES, "image": ("image",), "text": ("text",)}


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune a bundle; return the exit code."""
    options = _parser().parse_args(arguments)
    limit_threads()
    try:
        _finetune(options)
    except (ValueError, OSError) as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("stopped; the epochs that were finished are kept, run the same command to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune",
        description="Fine-tune the encoder's last blocks under a tuned head.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/bundles/latest"), help="tuned, to start from")
    parser.add_argument("--blocks", type=int, default=2, help="last blocks of each tower that learn")
    parser.add_argument("--towers", choices=TOWERS, default="both", help="whose blocks learn")
    parser.add_argument("--lora", type=int, default=0, help="rank of a low-rank change; 0: the weights themselves")
    parser.add_argument(
        "--learning-rate", type=float, default=None, help="highest; None: three about 0.01 / the blocks' width"
    )
    parser.add_argument("--epochs", type=int, default=4, help="with each learning rate")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the memes, and of dropout")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    return parser


def _finetune(options: argparse.Namespace) -> None:
    start = read_start(options.bundle, options.artifacts)
    unfreezing = Unfreezing(options.blocks, TOWERS[options.towers], options.lora)
    frozen = frozen_head(start)
    ensemble = copy.deepcopy(frozen.method.ensemble)
    assert ensemble is not None  # the frozen head is one
    unfreezing = _useful(unfreezing, ensemble)
    encoder = _load(start, unfreezing, options.device, options.seed)
    rates = usual_rates(encoder.width) if options.learning_rate is None else [options.learning_rate]
    folder = options.artifacts / "finetune" / start.config["name"]
    trainings = []
    for number, rate in enumerate(rates):
        config = FinetuneConfig(rate, options.epochs, seed=options.seed)
        trainings.append((config, Checkpoint(folder, _identity(start, unfreezing, config, encoder), number)))
    train_share, validation, rows = _shares(start)
    print(
        f"fine-tuning {unfrozen_words(_plain(unfreezing))} under {len(ensemble.heads)} heads, from {start.config['name']}, "
        f"on {len(train_share.rows)} memes, at learning rates of {', '.join(f'{rate:g}' for rate in rates)} for "
        f"{options.epochs} epochs each; {len(validation.rows)} of validation choose"
    )
    memes = Memes(encoder, start.index, start.root, folder)
    ensemble.to(encoder.encoder.device)
    model = Model(memes, ensemble, frozen.calibration)
    weights = {f"encoder/{name}": weight for name, weight in encoder.weights.items()}
    weights |= {f"head/{name}": weight for name, weight in ensemble.named_parameters()}
    with _threads(encoder.width):
        memes.fill(rows)
        runs = train_rates(model, weights, train_share, validation, trainings, _say)
    best = runs[0]
    if not best.best_epoch:
        print(
            f"\nNo epoch was better on validation than the frozen head, so no bundle is written: {start.folder} stays the "
            "better one."
        )
        _discard(trainings)
        return
    delta = encoder.delta()
    file = embed_finetuned(start, delta, folder, options.artifacts, options.device, _say)
    logits = crossed_logits(runs, validation.label, start.parts[start.folds == 0])
    facts = _facts(start, unfreezing, runs, sum(weight.numel() for weight in weights.values()))
    bundle, settings = save_finetuned(
        start, file, frozen, ensemble.cpu(), logits, folder / DELTA, options.artifacts, facts
    )
    (folder / DELTA).unlink()
    _discard(trainings)
    print(f"\n{metrics_table('validation', settings['tuning_metrics'])}")
    print(
        f"\nbest epoch  {best.best_epoch} of {len(best.history) - 1}, at a learning rate of {best.config.learning_rate:g}, "
        f"{best.rate:.1f} memes/s"
    )
    print(f"threshold   {settings['threshold']:.3f}")
    print(
        "Each fifth of validation is judged after the rate and the epoch that the others choose; the threshold was chosen on "
        "all of it. `make report` looks at test, once."
    )
    print(f"bundle  {bundle}")


def _discard(trainings: list[tuple[FinetuneConfig, Checkpoint]]) -> None:
    for _, checkpoint in trainings:
        checkpoint.discard()


@contextmanager
def _threads(width: int) -> Iterator[None]:
    """One thread for a narrow encoder: on two busy cores, threads that wait for each other were 10 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if width < _NARROW else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _useful(unfreezing: Unfreezing, ensemble: HeadEnsemble) -> Unfreezing:
    """Without the towers whose vectors no head reads. Raises UnusableStart where none is left."""
    read = sides_of(ensemble)
    sides = tuple(side for side in unfreezing.sides if side in read)
    if not sides:
        other = next(iter(read))
        raise UnusableStart(f"the heads of this bundle read {other} vectors alone; use --towers {other}")
    return replace(unfreezing, sides=sides)


def _load(start: Start, unfreezing: Unfreezing, device: str, seed: int) -> UnfrozenEncoder:
    spec = start.config["spec"]
    encoder = load_unfrozen(*encoder_of(start), choose_device(device), EncoderOptions.of_spec(spec), unfreezing, seed)
    require_same_spec(spec, encoder.encoder.spec, f"the bundle {start.config['name']} and the encoder that was loaded")
    return encoder


def _identity(start: Start, unfreezing: Unfreezing, config: FinetuneConfig, encoder: UnfrozenEncoder) -> dict[str, Any]:
    """What must be equal for a stopped training to go on."""
    return {
        "version": start.config["version"],
        "fingerprint": start.fingerprint,
        "unfreezing": asdict(unfreezing),
        "config": asdict(config),
        "device": encoder.encoder.device.type,
    }


def _shares(start: Start) -> tuple[Share, Share, np.ndarray]:
    """The memes trained on, those of validation, and the rows of both in the index."""
    place = {start.index.ids[row]: row for row in usable_rows(start.index)}
    features, held = start.features, start.folds == 0
    rows = np.array([place[name] for name in features.ids.tolist()])
    return Share(rows[~held], features.label[~held]), Share(rows[held], features.label[held]), rows


def _facts(start: Start, unfreezing: Unfreezing, runs: list[Run], weights: int) -> dict[str, Any]:
    """What config.json tells of it."""
    best = runs[0]
    return {
        "from": {name: start.config[name] for name in ("name", "version")},
        **_plain(unfreezing),
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


def _plain(unfreezing: Unfreezing) -> dict[str, Any]:
    """In the words of the command line."""
    towers = next(name for name, sides in TOWERS.items() if set(sides) == set(unfreezing.sides))
    return {"blocks": unfreezing.blocks, "towers": towers, "lora": unfreezing.rank}


def _say(note: str) -> None:
    print(note, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
