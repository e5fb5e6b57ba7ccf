"""Weights in bfloat16 on a processor: products in bfloat16, in float32, and weights in float32.

`python -m bench.halves` on random weights and pixels, without decoding; `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`
before it makes the processor one with AVX2 alone. `load_encoder` takes one of the first two, by `embed.hardware`:

    (a) bf16, products in bfloat16    the peer
    (b) bf16, products in float32
    (c) fp32
"""

import argparse
import time
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.machine import describe, print_json, say
from bench.weights import MODEL, weights_file
from embed.encoder import ClipEncoder, load_encoder
from embed.hardware import has_products
from embed.profile import Profile

_CPU = torch.device("cpu")
_PEER, _FLOAT32 = "(a) bf16, products in bfloat16", "(c) fp32"
_CONTENDERS = {_PEER: ("bf16", True), "(b) bf16, products in float32": ("bf16", False), _FLOAT32: ("fp32", True)}
_PICTURES, _TEXTS = 16, 32
_SEED = 0


def main() -> int:
    """Measure, print a table and the JSON line."""
    asked = _parser().parse_args()
    machine = describe()
    weights = str(weights_file())
    encoders = {}
    for name, (precision, native) in _CONTENDERS.items():
        with patch("embed.encoder.has_products", lambda *_, native=native: native):
            encoders[name] = load_encoder(MODEL, weights, _CPU, Profile(precision=precision))
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in encoders}
    for turn in range(asked.rounds):
        for name in list(encoders)[:: -1 if turn % 2 else 1]:
            rates[name].append(_rates(encoders[name], asked.seconds))
            say(f"{name}: {rates[name][-1]}")
    measured = {name: _figures(rates[name], encoders[name], encoders[_FLOAT32]) for name in encoders}
    chosen = "(a)" if has_products("bf16", _CPU) else "(b)"
    print(f"{'':<32}pictures/s, to (a)   texts/s, to (a)     max 1 - cos to (c)  alone and in a batch")
    for name, found in measured.items():
        cells = [f"{found[kind]:.1f}  {found[kind] / measured[_PEER][kind]:.2f}" for kind in ("pictures", "texts")]
        print(f"{name:<32}{cells[0]:<21}{cells[1]:<20}{found['from_float32']:<20.1e}{found['from_batch']:.1e}")
    print(f"{MODEL}; for PRECISION=bf16 this processor takes {chosen}")
    print_json({"benchmark": "halves", "machine": machine, **vars(asked), "chosen": chosen, "measured": measured})
    return 0


def _inputs(encoder: ClipEncoder) -> tuple[list[Tensor], list[Tensor]]:
    """Random pictures and texts of 10 to 72 tokens, the same for all."""
    generator = torch.Generator().manual_seed(_SEED)
    size = encoder.spec["preprocess"]["size"]
    pictures = torch.randint(256, (_PICTURES, *size, 3), generator=generator, dtype=torch.uint8)
    return list(pictures), [encoder.tokens("word " * (8 + 2 * number)) for number in range(_TEXTS)]


def _rates(encoder: ClipEncoder, seconds: float) -> dict[str, float]:
    """Pictures and texts a second, each measured for so many seconds."""
    found = {}
    for kind, encode, items in zip(
        ("pictures", "texts"), (encoder.image_features, encoder.text_features), _inputs(encoder)
    ):
        encode(items)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            encode(items)
            done += len(items)
        found[kind] = round(done / (time.perf_counter() - started), 2)
    return found


def _figures(rates: list[dict[str, float]], encoder: ClipEncoder, float32: ClipEncoder) -> dict[str, Any]:
    """The fastest round, and how far the vectors are from float32's and from what they are alone."""
    pictures, texts = _inputs(encoder)
    together = [encoder.image_features(pictures), encoder.text_features(texts)]
    alone = [
        torch.cat([encoder.image_features([one]) for one in pictures]),
        torch.cat([encoder.text_features([one]) for one in texts]),
    ]
    expected = [float32.image_features(pictures), float32.text_features(texts)]
    angles = [1 - F.cosine_similarity(a.double(), b.double()) for a, b in zip(together, expected)]
    apart = [(F.normalize(a) - F.normalize(b)).abs() for a, b in zip(together, alone)]
    return {
        **{kind: max(one[kind] for one in rates) for kind in ("pictures", "texts")},
        "from_float32": max(float(one.max()) for one in angles),
        "from_batch": max(float(one.max()) for one in apart),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.halves", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
