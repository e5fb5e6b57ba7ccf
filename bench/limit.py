"""Lower time bound of embedding on this CPU: decoding alone plus the model's matrix products alone.

    python -m bench.limit WORK --dtype bfloat16

Prints {case: {"decode_s", "products_s"}} for the three folders that `bench.cases` wrote under WORK. Decoding: every
picture decoded, resized and cropped as in the job, one process per core. Products: activations times weights of
ViT-B/32 for every picture and for each text's own tokens without padding, the last block's except keys and values on
the pooled token alone, by the faster of torch's two kernels at the best of a few batch sizes. Both need the same cores,
so the bound is their sum. Not included: attention products (1 to 3 %), softmax, norms, GELU, copies, reading, writing.
No program reaches it.
"""

import argparse
import functools
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import linear

from bench.cases import read_rows
from bench.weights import MODEL
from cache import cores
from embed.pictures.decoding import decode_picture

# Batch sizes in pictures and in tokens (texts are not padded).
_IMAGE_BATCHES = (8, 16, 32, 64)
_TOKEN_BATCHES = (256, 512, 1024, 2048)
# Each size runs at least twice and for a second, and the fastest counts, to exclude interference.
_FEWEST_TRIES = 2
_TRY_SECONDS = 1.0
_MLP = 4


@dataclass(frozen=True)
class _Tower:
    """A transformer's sizes; first: input dimension of the patch embedding, 0 for text."""

    width: int
    layers: int
    output: int
    first: int = 0


def main() -> None:
    """Measure and print."""
    args = _parser().parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    rows = {name: read_rows(args.work / name) for name in ("memes", "images", "texts")}
    decode = decode_seconds([row.picture for row in rows["images"]]) / len(rows["images"])
    with torch.inference_mode():
        image, token = image_seconds(dtype), token_seconds(dtype)
    result = {
        "memes": {
            "decode_s": decode * len(rows["memes"]),
            "products_s": image * len(rows["memes"]) + token * _tokens(row.text for row in rows["memes"]),
        },
        "images": {"decode_s": decode * len(rows["images"]), "products_s": image * len(rows["images"])},
        "texts": {"decode_s": 0.0, "products_s": token * _tokens(row.text for row in rows["texts"])},
    }
    print(json.dumps(result))


def decode_seconds(pictures: Sequence[Path]) -> float:
    """Seconds to decode, resize and crop every picture, with every core busy."""
    # processes, so that no core waits for the interpreter lock
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pool.map(_decode, pictures[: 2 * cores()], chunksize=1)
        started = time.perf_counter()
        done = sum(pool.imap_unordered(_decode, pictures, chunksize=4))
        seconds = time.perf_counter() - started
    assert done == len(pictures)
    return seconds


def image_seconds(dtype: torch.dtype) -> float:
    """Seconds for one picture's products, at the best batch size."""
    vision = _config()["vision_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    tower = _Tower(vision["width"], vision["layers"], _config()["embed_dim"], first=3 * vision["patch_size"] ** 2)
    return _best(tower, dtype, {size * (patches + 1): size for size in _IMAGE_BATCHES}, size_of_first=patches)


def token_seconds(dtype: torch.dtype) -> float:
    """Seconds for one token's products, at the best batch size."""
    text = _config()["text_cfg"]
    tower = _Tower(text["width"], text["layers"], _config()["embed_dim"])
    return _best(tower, dtype, {size: size for size in _TOKEN_BATCHES}, size_of_first=0)


def _best(tower: _Tower, dtype: torch.dtype, batches: dict[int, int], size_of_first: int) -> float:
    """Seconds per item; batches: {rows of activations: items}."""
    best = math.inf
    for lay_out, multiply in _ways():
        weights = _weights(tower, dtype, lay_out)
        for rows, items in batches.items():
            x = torch.randn(rows, tower.width, dtype=dtype)
            raw = torch.randn(items * size_of_first, tower.first, dtype=dtype)
            best = min(best, _fastest(lambda: _products(x, raw, items, weights, multiply)) / items)  # noqa: B023
    return best


def _products(x: Tensor, raw: Tensor, items: int, weights: dict[str, list[Any]], multiply: Callable) -> None:
    """All products of one batch; x: (rows, D), input of every layer; raw: (patches, first) pixels, empty for text."""
    for first in weights["first"]:
        multiply(raw, first)
    *blocks, last = zip(weights["query"], weights["key_value"], weights["out"], weights["up"], weights["down"])
    for block in blocks:
        _block(x, *block, multiply)
    # The pooled token needs all keys and values, and is one row per picture. For texts it is left out: the number of
    # texts in a batch of tokens is unknown, and this is a lower bound.
    multiply(x, last[1])
    if len(raw):
        pooled = x[:items]
        _block(pooled, last[0], None, *last[2:], multiply)
        multiply(pooled, weights["projection"][0])


def _block(x: Tensor, query: Any, key_value: Any, out: Any, up: Any, down: Any, multiply: Callable) -> None:
    multiply(x, query)
    if key_value is not None:
        multiply(x, key_value)
    multiply(x, out)
    multiply(multiply(x, up), down)


def _ways() -> list[tuple[Callable[[Tensor], Any], Callable[[Tensor, Any], Tensor]]]:
    """(pack a weight, multiply by it): plain, and packed for oneDNN as torch's compiler does."""
    ways: list[tuple[Callable[[Tensor], Any], Callable[[Tensor, Any], Tensor]]] = [(lambda weight: weight, linear)]
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn
        ways.append(
            (
                lambda weight: packed._reorder_linear_weight(weight, None),
                lambda x, weight: packed._linear_pointwise(x, weight, None, "none", [], "none"),
            )
        )
    return ways


def _weights(tower: _Tower, dtype: torch.dtype, lay_out: Callable[[Tensor], Any]) -> dict[str, list[Any]]:
    """Separate weights for every layer, as in a model, so that they do not stay in the CPU cache."""

    def some(count: int, *shape: int) -> list[Any]:
        return [lay_out(torch.randn(shape, dtype=dtype)) for _ in range(count)]

    width, layers = tower.width, tower.layers
    return {
        "first": some(1, width, tower.first) if tower.first else [],
        "query": some(layers, width, width),
        "key_value": some(layers, 2 * width, width),
        "out": some(layers, width, width),
        "up": some(layers, _MLP * width, width),
        "down": some(layers, width, _MLP * width),
        "projection": some(1, tower.output, width),
    }


def _fastest(work: Callable[[], object]) -> float:
    best, tries, began = math.inf, 0, time.perf_counter()
    while tries < _FEWEST_TRIES or time.perf_counter() - began < _TRY_SECONDS:
        started = time.perf_counter()
        work()
        best, tries = min(best, time.perf_counter() - started), tries + 1
    return best


def _decode(path: Path) -> int:
    image = decode_picture(path.read_bytes())
    for step in _picture_steps():
        image = step(image)
    return 1


@functools.cache
def _picture_steps() -> list[Callable[[Image.Image], Image.Image]]:
    """open_clip's steps before the conversion to a tensor: resize, crop, RGB."""
    steps = open_clip.image_transform(_config()["vision_cfg"]["image_size"], is_train=False).transforms
    return steps[: [type(step).__name__ for step in steps].index("MaybeToTensor")]


def _tokens(texts: Any) -> int:
    tokenizer, most = open_clip.get_tokenizer(MODEL), _config()["text_cfg"]["context_length"]
    return sum(min(most, len(tokenizer.encode(text)) + 2) for text in texts)


def _config() -> dict[str, Any]:
    return open_clip.get_model_config(MODEL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description="What decoding and products need.")
    parser.add_argument("work", type=Path, help="a folder under which bench.cases wrote")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32", help="of the products")
    return parser


if __name__ == "__main__":
    main()
