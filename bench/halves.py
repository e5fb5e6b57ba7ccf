"""CPU throughput of bfloat16 weights with products in bfloat16 or float32, and of float32 weights.

    python -m bench.halves

Random weights and pixels, without decoding. `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` limits the CPU to AVX2.
`load_encoder` takes (a) or (b), by `embed.clip.hardware`:

    (a) bf16, products in bfloat16    the peer
    (b) bf16, products in float32
    (c) fp32
"""

import argparse
import time
from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.machine import describe, print_json, say
from bench.weights import MODEL, weights_file
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.hardware import has_products
from embed.clip.options import EncoderOptions

_CPU = torch.device("cpu")
_PEER, _FLOAT32 = "(a) bf16, products in bfloat16", "(c) fp32"
_CONTENDERS = {_PEER: ("bf16", True), "(b) bf16, products in float32": ("bf16", False), _FLOAT32: ("fp32", True)}
_PICTURES, _TEXTS = 16, 32
_SEED = 0


def main() -> int:
    """Measure, print a table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    weights = str(weights_file())
    encoders = {}
    for name, (precision, native) in _CONTENDERS.items():
        with patch("embed.clip.encoder.has_products", lambda *_, native=native: native):
            encoders[name] = load_encoder(MODEL, weights, _CPU, EncoderOptions(precision=precision))
    inputs = _inputs(encoders[_FLOAT32])
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in encoders}
    for turn in range(args.rounds):
        for name in list(encoders)[:: -1 if turn % 2 else 1]:
            rates[name].append(_rates(encoders[name], inputs, args.seconds))
            say(f"{name}: {rates[name][-1]}")
    expected = {kind: _vectors(encoders[_FLOAT32], kind, items) for kind, items in inputs.items()}
    measured = {
        name: {
            **{kind: max(one[kind] for one in rates[name]) for kind in inputs},  # of the fastest round
            **_distances(encoder, inputs, expected),
        }
        for name, encoder in encoders.items()
    }
    chosen = "(a)" if has_products("bf16", _CPU) else "(b)"
    print(f"{'':<32}pictures/s, to (a)   texts/s, to (a)     max 1 - cos to (c)  alone and in a batch")
    for name, found in measured.items():
        cells = [f"{found[kind]:.1f}  {found[kind] / measured[_PEER][kind]:.2f}" for kind in ("pictures", "texts")]
        print(f"{name:<32}{cells[0]:<21}{cells[1]:<20}{found['from_float32']:<20.1e}{found['from_batch']:.1e}")
    print(f"{MODEL}; for PRECISION=bf16 this processor takes {chosen}")
    print_json({"benchmark": "halves", "machine": machine, **vars(args), "chosen": chosen, "measured": measured})
    return 0


def _inputs(encoder: ClipEncoder) -> dict[str, list[Tensor]]:
    """Random pictures, (H, W, 3) uint8, and token rows of 10 to 72 tokens."""
    generator = torch.Generator().manual_seed(_SEED)
    size = encoder.spec["preprocess"]["size"]
    pictures = torch.randint(256, (_PICTURES, *size, 3), generator=generator, dtype=torch.uint8)
    texts = [encoder.tokens("word " * (8 + 2 * number)) for number in range(_TEXTS)]
    return {"pictures": list(pictures), "texts": texts}


def _vectors(encoder: ClipEncoder, kind: str, items: Sequence[Tensor]) -> Tensor:
    return encoder.image_features(items) if kind == "pictures" else encoder.text_features(items)


def _rates(encoder: ClipEncoder, inputs: dict[str, list[Tensor]], seconds: float) -> dict[str, float]:
    """Pictures/s and texts/s, each measured for `seconds`."""
    found = {}
    for kind, items in inputs.items():
        _vectors(encoder, kind, items)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            _vectors(encoder, kind, items)
            done += len(items)
        found[kind] = round(done / (time.perf_counter() - started), 2)
    return found


def _distances(encoder: ClipEncoder, inputs: dict[str, list[Tensor]], expected: dict[str, Tensor]) -> dict[str, float]:
    """Maximum 1 - cosine to float32's vectors, and maximum difference between a vector alone and in a batch."""
    angles, apart = [], []
    for kind, items in inputs.items():
        together = _vectors(encoder, kind, items)
        alone = torch.cat([_vectors(encoder, kind, [item]) for item in items])
        angles.append(float((1 - F.cosine_similarity(together.double(), expected[kind].double())).max()))
        apart.append(float((F.normalize(together) - F.normalize(alone)).abs().max()))
    return {"from_float32": max(angles), "from_batch": max(apart)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.halves", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
