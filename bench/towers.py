"""Throughput of the towers alone: ours, ONNX Runtime and OpenVINO, on the same pixels and tokens.

    INTERPRETER -m bench.towers WORK WEIGHTS --dtype float32

INTERPRETER is that of `bench.runtimes`. WORK: where `bench.cases` wrote. Ours runs as in the job, one thread for each core,
each on batches of its own; the peers run batches of 32 on all cores. Prints {contender: {"image" | "text": items/s}},
the fastest of several alternating rounds.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import runtimes
from bench.cases import read_rows
from bench.weights import MODEL
from cache import cores
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
_PEER_BATCH = 32


def main() -> None:
    """Measure and print."""
    args = _parser().parse_args()
    options = EncoderOptions(precision=_PRECISIONS[args.dtype])
    encoder = load_encoder(MODEL, str(args.weights), torch.device("cpu"), options)
    pixels = [encoder.pixels(row.picture.read_bytes()) for row in read_rows(args.work / "images")[: args.items]]
    tokens = [encoder.tokens(row.text) for row in read_rows(args.work / "texts")[: args.items]]
    contenders = {"ours": partial(_ours, encoder, pixels, tokens)}
    for runtime in ("onnxruntime", "openvino") if args.dtype == "float32" else ("openvino",):
        contenders[runtime] = partial(_peer, runtimes.load(runtime, args.dtype, args.weights), encoder, pixels, tokens)
    rates: dict[str, dict[str, float]] = {name: {"image": 0.0, "text": 0.0} for name in contenders}
    for number in range(args.rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            for side, (seconds, count) in contenders[name]().items():
                rates[name][side] = round(max(rates[name][side], count / seconds), 2)
    print(json.dumps(rates))


def _ours(encoder: ClipEncoder, pixels: list[Tensor], tokens: list[Tensor]) -> dict[str, tuple[float, int]]:
    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return {
            "image": _timed(partial(pool.map, encoder.image_features), pixels, encoder.batch_size("image")),
            "text": _timed(partial(pool.map, encoder.text_features), tokens, encoder.batch_size("text")),
        }


def _peer(
    load: dict[str, runtimes.Encode], encoder: ClipEncoder, pixels: list[Tensor], tokens: list[Tensor]
) -> dict[str, tuple[float, int]]:
    batch = (torch.stack(pixels).permute(0, 3, 1, 2) / 255 - encoder.mean) / encoder.std
    items = {"image": list(batch), "text": [row for rows in tokens for row in rows]}
    return {
        side: _timed(partial(map, lambda part, side=side: load[side](torch.stack(part))), items[side], _PEER_BATCH)
        for side in load
    }


def _timed(
    each: Callable[[Sequence[list[Tensor]]], Iterable[Tensor]], items: list[Tensor], size: int
) -> tuple[float, int]:
    """Seconds of all batches of `size`, and the number of items."""
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    started = time.perf_counter()
    list(each(batches))
    return time.perf_counter() - started, len(items)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.towers", description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="a folder under which bench.cases wrote")
    parser.add_argument("weights", type=Path, help="a checkpoint of bench.weights' model")
    parser.add_argument("--dtype", choices=tuple(_PRECISIONS), default="float32", help="of the products")
    parser.add_argument("--items", type=int, default=96, help="pictures and texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="the first warms up (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
