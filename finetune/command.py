"""Run `finetune` and print its results, for the command line; imports torch and open_clip."""

import sys

from finetune.run import Finetuned, FinetuneRequest, Prepared, describe_unfreezing, finetune, prepare
from head.judge.verdict import metrics_table, unfrozen_words


def run_finetune(request: FinetuneRequest) -> None:
    """Fine-tune a bundle and print the results. Raises what `finetune.run.prepare` and `finetune` raise."""
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
    print(f"bundle      {finetuned.bundle}")
    print(f"in use      {finetuned.taken}")


def _say(note: str) -> None:
    print(note, file=sys.stderr)
