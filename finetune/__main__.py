"""Fine-tune the last blocks of the encoder under a tuned head, and write a bundle with the encoder delta.

    python -m finetune --bundle artifacts/bundles/latest --blocks 2
    python -m finetune --bundle artifacts/bundles/latest --lora 8

Needs the data folder that the bundle was tuned on. Trains on train, stops early on validation, never reads test. Exit
codes: 0 done, also where no epoch improved and no bundle was written; 2 refused, with the remedy in a sentence; 130
stopped by Ctrl-C, and the same command resumes.
"""

import argparse
import sys
from pathlib import Path

from cache import limit_threads, refuse
from embed.clip.options import DEVICES
from embed.clip.unfrozen import Unfreezing
from finetune.run import TOWERS, Finetuned, FinetuneRequest, Prepared, describe_unfreezing, finetune, prepare
from head.judge.verdict import metrics_table, unfrozen_words


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune a bundle; return the exit code."""
    options = _parser().parse_args(arguments)
    limit_threads()
    try:
        _finetune(_request(options))
    except (ValueError, OSError) as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("stopped; finished epochs are kept, run the same command to resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune",
        description="Fine-tune the encoder's last blocks under a tuned head.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path("artifacts/bundles/latest"), help="tuned bundle to start from"
    )
    parser.add_argument("--blocks", type=int, default=2, help="last blocks of each tower to train")
    parser.add_argument("--towers", choices=TOWERS, default="both", help="towers to train")
    parser.add_argument("--lora", type=int, default=0, help="LoRA rank; 0: train the weights themselves")
    parser.add_argument("--learning-rate", type=float, default=None, help="peak; None: tries three near 0.01 / width")
    parser.add_argument("--epochs", type=int, default=4, help="with each learning rate")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of the order of memes, and of dropout")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    return parser


def _request(options: argparse.Namespace) -> FinetuneRequest:
    return FinetuneRequest(
        options.bundle,
        options.artifacts,
        Unfreezing(options.blocks, TOWERS[options.towers], options.lora),
        options.learning_rate,
        options.epochs,
        options.device,
        options.seed,
    )


def _finetune(request: FinetuneRequest) -> None:
    prepared = prepare(request)
    _print_start(prepared)
    finetuned = finetune(prepared, _say)
    if finetuned.bundle is None:
        print(
            f"\nNo epoch improved on the frozen head on validation, so no bundle is written: keep {prepared.start.folder}."
        )
    else:
        _print_results(finetuned)


def _print_start(prepared: Prepared) -> None:
    ensemble = prepared.frozen.method.ensemble
    assert ensemble is not None
    configs = [config for config, _ in prepared.trainings]
    print(
        f"fine-tuning {unfrozen_words(describe_unfreezing(prepared.unfreezing))} under {len(ensemble.heads)} heads, from "
        f"{prepared.start.config['name']}: {len(prepared.split.train.rows)} train memes, "
        f"{len(prepared.split.validation.rows)} validation memes; learning rates "
        f"{', '.join(f'{config.learning_rate:g}' for config in configs)}, {configs[0].epochs} epochs each"
    )


def _print_results(finetuned: Finetuned) -> None:
    best, config = finetuned.best, finetuned.config
    assert config is not None
    print(f"\n{metrics_table('validation', config['tuning_metrics'])}")
    print(
        f"\nbest epoch  {best.best_epoch} of {len(best.history) - 1}, at a learning rate of {best.config.learning_rate:g}, "
        f"{best.rate:.1f} memes/s"
    )
    print(f"threshold   {config['threshold']:.3f}")
    print(
        "Probabilities of each fifth of validation are cross-fitted: the other fifths select rate and epoch. The threshold is "
        "chosen on all of validation. `make report` reads the test split, once."
    )
    print(f"bundle  {finetuned.bundle}")


def _say(note: str) -> None:
    print(note, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
