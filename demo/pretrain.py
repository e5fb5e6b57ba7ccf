"""Train the demo encoder, a small CLIP, from scratch on drawn pictures and their captions.

Captions name or describe the subject, and negate it when it is struck out. They never mention the words written on a
picture, so the image tower learns to ignore writing. The memes' sentences, plan and labels are not used. Writes
`open_clip_config.json` and `open_clip_model.safetensors` (float16), which open_clip loads as `local-dir:demo/encoder`.
Took 7 minutes 21 s on two busy cores with `OMP_NUM_THREADS=1`; on busy cores, more threads are slower.

    python -m demo.pretrain [--out demo/encoder] [--steps N] [--seed N]
"""

import argparse
import json
import math
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from safetensors.torch import save
from tqdm import tqdm

from demo.captions import describe, scribble
from demo.scenes import BACKGROUNDS, LAYOUTS, PATTERNS, Style, draw_picture, write_caption
from demo.subjects import SUBJECTS

MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 72, "layers": 4, "width": 96, "head_width": 32, "patch_size": 12},
    # The token embedding is most of the file: 49408 rows of 64 float16 are 6.3 MB.
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESS: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

# Captions have at most 27 tokens. With a causal mask and pooling at the end-of-text token, the 50 positions after that
# have no effect; leaving them out makes the text tower three times faster.
_TRAINED_LENGTH = 27
_WARM_UP_STEPS = 100
_MAX_LOGIT_SCALE = math.log(100)  # as in CLIP


@dataclass(frozen=True)
class Pretraining:
    """Training settings. Raises ValueError for counts that are too small."""

    steps: int = 500  # enough for the figures in README.md; 5 min 38 s on two busy cores
    pictures: int = 16_000  # drawn in about a minute; each is then seen eight times
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.pictures < self.batch_size or self.batch_size < 2:
            raise ValueError(f"steps >= 1 and pictures >= batch_size >= 2 are needed, got {self}")


@dataclass(frozen=True)
class Scene:
    """The facts of one pretraining picture that its caption may mention."""

    subject: str
    background: str
    crossed: bool


def draw_scene(seed: int, index: int) -> tuple[Scene, np.ndarray]:
    """Pretraining picture number `index`: what it shows, and its pixels as the encoder sees them, (3, 72, 72) uint8."""
    rng = random.Random(f"pretraining {seed} {index}")  # a string seed: never equal to a meme's integer seed
    scene = Scene(rng.choice(list(SUBJECTS)), rng.choice(list(BACKGROUNDS)), rng.random() < 0.5)
    size = (rng.randint(110, 150), rng.randint(110, 150))
    image = draw_picture(scene.subject, scene.background, Style(size, rng.choice(PATTERNS), scene.crossed), rng)
    if rng.random() < 0.9:
        image = write_caption(image, scribble(rng), rng.choice(LAYOUTS))
    if rng.random() < 0.05:
        image = image.convert("L")
    side = MODEL["vision_cfg"]["image_size"]
    shrink = image_transform(side, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))  # stock resize and crop
    return scene, (shrink(image) * 255).round().byte().numpy()


def pretrain(settings: Pretraining, scenes: list[Scene], pixels: torch.Tensor) -> tuple[open_clip.CLIP, list[float]]:
    """Train on `pixels` (N, 3, 72, 72) uint8 and fresh captions of `scenes` (N). Returns the model and every loss.

    The model takes 77 tokens. Raises `ValueError` when `scenes` and `pixels` differ in length.
    """
    if len(scenes) != len(pixels):
        raise ValueError(f"{len(scenes)} scenes but {len(pixels)} pictures")
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    model = open_clip.CLIP(**{**MODEL, "text_cfg": {**MODEL["text_cfg"], "context_length": _TRAINED_LENGTH}})
    contrast = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=settings.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, settings.steps))
    losses = []
    progress = tqdm(_batches(len(scenes), settings, rng), total=settings.steps, desc="pretrain", unit="step")
    for batch in progress:
        image = model.encode_image(_normalise(pixels[batch]), normalize=True)  # (B, 64)
        text = model.encode_text(_tokens([scenes[i] for i in batch], rng), normalize=True)  # (B, 64)
        loss = contrast(image, text, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return _lengthened(model), losses


def save_encoder(model: open_clip.CLIP, out: Path) -> None:
    """Write config and float16 weights as read by open_clip's `local-dir:` schema. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    # Not `save_file`: its file is readable by the owner alone, and a server may run as another user.
    (out / "open_clip_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _draw_numbered(numbers: tuple[int, int]) -> tuple[Scene, np.ndarray]:
    return draw_scene(*numbers)


def _draw_all(settings: Pretraining) -> tuple[list[Scene], torch.Tensor]:
    numbers = [(settings.seed, i) for i in range(settings.pictures)]
    spawn = multiprocessing.get_context("spawn")
    # One torch thread per process: with more, this was four times slower.
    with ProcessPoolExecutor(mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        drawn = pool.map(_draw_numbered, numbers, chunksize=100)
        scenes, pixels = zip(*tqdm(drawn, total=len(numbers), desc="draw", unit="picture"), strict=True)
    return list(scenes), torch.from_numpy(np.stack(pixels))


def _batches(count: int, settings: Pretraining, rng: random.Random) -> Iterator[list[int]]:
    order: list[int] = []
    for _ in range(settings.steps):
        if len(order) < settings.batch_size:
            order = rng.sample(range(count), count)
        yield order[: settings.batch_size]
        del order[: settings.batch_size]


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(PREPROCESS[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (pixels / 255 - mean) / std


def _tokens(scenes: list[Scene], rng: random.Random) -> torch.Tensor:
    captions = [describe(scene.subject, scene.background, scene.crossed, rng) for scene in scenes]
    tokens = open_clip.tokenize(captions, MODEL["text_cfg"]["context_length"])  # (B, 77)
    assert not tokens[:, _TRAINED_LENGTH:].any(), "a caption is longer than _TRAINED_LENGTH"
    return tokens[:, :_TRAINED_LENGTH]


def _parameter_groups(model: open_clip.CLIP) -> list[dict[str, Any]]:
    # Weight decay would shrink the embeddings of tokens that occur in no caption.
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    kept = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]


def _learning_rate_factor(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _lengthened(model: open_clip.CLIP) -> open_clip.CLIP:
    weights = model.state_dict()
    places = weights["positional_embedding"]  # (27, 64)
    missing = MODEL["text_cfg"]["context_length"] - len(places)
    # Untrained positions repeat the last trained one: a longer text gets a vector near that of its beginning, not
    # noise.
    weights["positional_embedding"] = torch.cat([places, places[-1:].expand(missing, -1)])  # (77, 64)
    longer = open_clip.CLIP(**MODEL)
    longer.load_state_dict(weights)
    return longer.eval()


def main() -> None:
    """Read the flags, draw, train, save, and print what was written."""
    default = Pretraining()
    parser = argparse.ArgumentParser(prog="python -m demo.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo/encoder"), help="folder to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=default.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of pictures and weights (default: %(default)s)")
    args = parser.parse_args()
    settings = Pretraining(steps=args.steps, seed=args.seed)
    model, losses = pretrain(settings, *_draw_all(settings))
    save_encoder(model, args.out)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"loss {np.mean(losses[-50:]):.3f} (mean of the last 50 steps), {size / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
