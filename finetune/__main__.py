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

from cache import limit_threads, require_same_spec
from embed.delta import DELTA
from embed.hardware import choose_device
from embed.profile import DEVICES, Profile
from embed.unfrozen import SIDES, Unfreezing, UnfrozenEncoder, load_unfrozen
from finetune.checkpoint import Checkpoint
from finetune.finish import embed_finetuned, save_finetuned
from finetune.kept import Memes
from finetune.start import Start, UnusableStart, encoder_of, frozen_head, read_start, sides_of
from finetune.train import FinetuneConfig, Finetuned, Model, Share, Training, usual_rate
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
        print(f"error: {error}", file=sys.stderr)
        return 2
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
    parser.add_argument("--learning-rate", type=float, default=None, help="highest; None: 0.01 / the blocks' width")
    parser.add_argument("--epochs", type=int, default=10, help="at most")
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
    rate = usual_rate(encoder.width) if options.learning_rate is None else options.learning_rate
    config = FinetuneConfig(rate, options.epochs, seed=options.seed)
    folder = options.artifacts / "finetune" / start.config["name"]
    checkpoint = Checkpoint(folder, _identity(start, unfreezing, config, encoder))
    train_share, validation, rows = _shares(start)
    print(
        f"fine-tuning {unfrozen_words(_plain(unfreezing))} under {len(ensemble.heads)} heads, from {start.config['name']}, "
        f"on {len(train_share.rows)} memes at a learning rate of {rate:g}; {len(validation.rows)} of validation say when "
        "to stop"
    )
    memes = Memes(encoder, start.index, start.root)
    ensemble.to(encoder.encoder.device)
    model = Model(memes, ensemble, frozen.calibration)
    weights = {f"encoder/{name}": weight for name, weight in encoder.weights.items()}
    weights |= {f"head/{name}": weight for name, weight in ensemble.named_parameters()}
    with _threads(encoder.width):
        memes.fill(rows)
        trained = Training(model, weights, train_share, validation, config, checkpoint, _say).run()
    if not trained.best_epoch:
        print(
            f"\nNo epoch was better on validation than the frozen head, so no bundle is written: {start.folder} stays the "
            "better one."
        )
        checkpoint.discard()
        return
    delta = encoder.delta()
    file = embed_finetuned(start, delta, folder, options.artifacts, options.device, _say)
    facts = _facts(start, unfreezing, config, trained, sum(weight.numel() for weight in weights.values()))
    bundle, settings = save_finetuned(start, file, frozen, ensemble.cpu(), folder / DELTA, options.artifacts, facts)
    (folder / DELTA).unlink()
    checkpoint.discard()
    print(f"\n{metrics_table('validation', settings['tuning_metrics'])}")
    print(f"\nbest epoch  {trained.best_epoch} of {len(trained.history) - 1}, {trained.rate:.1f} memes/s")
    print(f"threshold   {settings['threshold']:.3f}")
    print(
        "Validation chose the epoch and the threshold, so its figures are optimistic; `make report` looks at test, once."
    )
    print(f"bundle  {bundle}")


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
    encoder = load_unfrozen(*encoder_of(start), choose_device(device), Profile.of_spec(spec), unfreezing, seed)
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


def _facts(
    start: Start, unfreezing: Unfreezing, config: FinetuneConfig, trained: Finetuned, weights: int
) -> dict[str, Any]:
    """What config.json tells of it."""
    return {
        "from": {name: start.config[name] for name in ("name", "version")},
        **_plain(unfreezing),
        "learning_rate": config.learning_rate,
        "epochs": config.epochs,
        "best_epoch": trained.best_epoch,
        "history": trained.history,
        "trained": weights,
        "seconds": trained.seconds,
        "memes_per_second": trained.rate,
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
