"""Fine-tuning throughput: a plain loop over the whole model, and ours without and with cached inputs.

    python -m bench.finetune --model ViT-B-32 --memes 32

Random weights, float32 on a CPU; the same unfrozen blocks, linear head, optimizer and batches for all:

    (a) plain    open_clip's encode_image and encode_text of every meme in every epoch, pictures decoded each time
    (b) ours     no gradient through frozen blocks, nothing cached
    (c) ours     outputs of the frozen blocks are computed once, in the first epoch, and cached
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bench.machine import describe, print_json, say
from bench.weights import MODEL, weights_file
from cache import DatasetIndex, content_key, text_key
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.unfrozen import Unfreezing, load_unfrozen
from embed.data.dataset import read_dataset
from finetune.activations import ActivationCache, Limits

_BATCH = 16
_SEED = 0
_PLAIN, _OURS, _KEPT = "(a) plain loop", "(b) ours, nothing kept", "(c) ours, kept"
# Random weights give large vectors; at this learning rate the losses stay comparable.
_RATE = 1e-5

Vectors = Callable[[np.ndarray], tuple[Tensor, Tensor]]


def main() -> int:
    """Measure, print a table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_file(Path(folder), args.model)
        index, root = _memes(Path(args.data), args.memes)
        measured: dict[str, dict[str, Any]] = {}
        for name, make in (
            (_PLAIN, lambda: _plain(args.model, weights, args.blocks, index, root)),
            (_OURS, lambda: _ours(args.model, weights, args.blocks, index, root, 0)),
            (_KEPT, lambda: _ours(args.model, weights, args.blocks, index, root, 8 << 30)),
        ):
            measured[name] = _measure(*make(), index, args.epochs)
            say(f"{name}: {measured[name]}")
    rates = {name: max(one["memes_per_s"]) for name, one in measured.items()}
    print(f"{'':<26}{'memes/s of each epoch':<34}{'ratio':<8}last loss")
    for name, one in measured.items():
        cells = ", ".join(f"{rate:.2f}" for rate in one["memes_per_s"])
        print(f"{name:<26}{cells:<34}{rates[name] / rates[_PLAIN]:<8.2f}{one['losses'][-1]:.5f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.model}, last {args.blocks} blocks of both towers, batches of {_BATCH}; peak {peak:,.0f} MB of all three"
    )
    result = {"benchmark": "finetune", "machine": machine, **vars(args), "measured": measured, "peak_mb": peak}
    print_json(result)
    return 0


def _memes(data: Path, count: int) -> tuple[DatasetIndex, Path]:
    """`count` distinct pictures of a data set, each with a distinct text, and their folder."""
    root, memes = read_dataset(data)
    some = {content_key((root / meme.image).read_bytes()): meme for meme in memes if not meme.problem}
    keys, chosen = [*some][:count], [*some.values()][:count]
    texts = [f"{meme.text} {number}" for number, meme in enumerate(chosen)]
    index = DatasetIndex(
        ids=[meme.id for meme in chosen],
        splits=["train"] * len(chosen),
        labels=[number % 2 for number in range(len(chosen))],
        images=[meme.image for meme in chosen],
        texts=texts,
        image_keys=keys,
        text_keys=[text_key(text) for text in texts],
        skipped=[""] * len(chosen),
        text_tokens=[0] * len(chosen),
        text_cut=[0] * len(chosen),
        image_stamps=[""] * len(chosen),
        spec={},
        source={},
    )
    return index, root


def _plain(
    model: str, weights: Path, blocks: int, index: DatasetIndex, root: Path
) -> tuple[Vectors, list[nn.Parameter]]:
    clip, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=str(weights))
    tokenizer = open_clip.get_tokenizer(model)
    clip.eval()
    clip.lock_image_tower(unlocked_groups=blocks + 1)  # the projection is a group
    clip.lock_text_tower(unlocked_layers=blocks + 1)
    clip.logit_scale.requires_grad_(False)

    def vectors(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        pictures = torch.stack([preprocess(Image.open(root / index.images[row])) for row in rows])
        return clip.encode_image(pictures), clip.encode_text(tokenizer([index.texts[row] for row in rows]))

    return vectors, [weight for weight in clip.parameters() if weight.requires_grad]


def _ours(
    model: str, weights: Path, blocks: int, index: DatasetIndex, root: Path, room: int
) -> tuple[Vectors, list[nn.Parameter]]:
    options = EncoderOptions(precision="fp32")
    encoder = load_unfrozen(EncoderRequest(model, str(weights), options), torch.device("cpu"), Unfreezing(blocks))
    kept = Path(tempfile.mkdtemp(dir=weights.parent))
    cache = ActivationCache(encoder, index, root, kept, Limits(room, disk=0))
    return cache.features, [*encoder.weights.values()]


def _measure(vectors: Vectors, weights: list[nn.Parameter], index: DatasetIndex, epochs: int) -> dict[str, Any]:
    """Memes/s and mean loss of each epoch."""
    torch.manual_seed(_SEED)
    rows, label = np.arange(len(index)), torch.tensor(index.labels, dtype=torch.float32)
    head = nn.Linear(sum(part.shape[1] for part in vectors(rows[:1])), 1)
    optimizer = torch.optim.AdamW([*weights, *head.parameters()], lr=_RATE)
    rates, losses = [], []
    for _ in range(epochs):
        started, total = time.perf_counter(), 0.0
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            loss = F.binary_cross_entropy_with_logits(head(torch.cat(vectors(part), dim=1))[:, 0], label[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(part)
        rates.append(round(len(rows) / (time.perf_counter() - started), 3))
        losses.append(round(total / len(rows), 6))
    return {"memes_per_s": rates, "losses": losses, "trained": sum(weight.numel() for weight in weights)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.finetune", description="Memes a second of fine-tuning.")
    parser.add_argument("--data", default="demo/memes", help="folder of memes (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="open_clip model (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=32, help="distinct ones (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=2, help="unfrozen, of each tower (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of each contender (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
