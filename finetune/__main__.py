"""Fine-tune the last blocks of the encoder under a tuned head, and write a bundle with the encoder delta.

    python -m finetune --bundle artifacts/bundles/latest --blocks 2
    python -m finetune --bundle artifacts/bundles/latest --lora 8

Needs the data folder that the bundle was tuned on. Trains on train, stops early on validation, never reads test. Exit
codes: 0 done, also where no epoch improved and no bundle was written; 2 refused, with the remedy in a sentence; 130
stopped by Ctrl-C, and the same command resumes.
"""

import argparse
from pathlib import Path

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache import find_bundle, limit_threads
from embed.clip.options import DEVICES
from finetune import TOWERS


@exit_codes("stopped; finished epochs are kept, run the same command to resume")
def main(arguments: list[str] | None = None) -> int:
    """Fine-tune a bundle; return the exit code."""
    options = _parser().parse_args(arguments)
    bundle = find_bundle(options.bundle, options.artifacts)
    announce("finetune", bundle=bundle, artifacts=options.artifacts)
    # imported here: it takes seconds, and the arguments are judged before
    from embed.clip.unfrozen import Unfreezing
    from finetune.command import run_finetune
    from finetune.run import FinetuneRequest

    limit_threads()
    run_finetune(
        FinetuneRequest(
            bundle,
            options.artifacts,
            Unfreezing(options.blocks, TOWERS[options.towers], options.lora),
            options.learning_rate,
            options.epochs,
            options.device,
            options.seed,
        )
    )
    return 0


def _parser() -> Parser:
    parser = Parser(
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


if __name__ == "__main__":
    run_as_command(main)
