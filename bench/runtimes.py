"""Peers (e) and (f) of `bench.embed`: ONNX Runtime and OpenVINO on an ONNX export of the same weights.

    INTERPRETER -m bench.runtimes WEIGHTS

writes the export beside WEIGHTS, once. INTERPRETER is of their own environment, with the project's packages behind it. The
export takes batches of any size, and texts of 77 tokens, as open_clip's `encode_text` does.
"""

import argparse
import logging
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from bench import environment
from bench.machine import BENCH_FOLDER, run
from bench.weights import MODEL
from cache import cores

# onnxruntime is the project's own.
PINS = ("onnx==1.23.2", "onnxscript==0.7.2", "openvino==2026.4.1")
# Of each of OpenVINO's requests, which run side by side.
_OPENVINO_BATCH = 8
_HINTS = {"float32": "f32", "bfloat16": "bf16"}

Encode = Callable[[Tensor], Tensor]


class _Side(nn.Module):
    def __init__(self, encode: Callable[[Tensor], Tensor], clip: nn.Module) -> None:
        super().__init__()
        self.clip, self._encode = clip, encode

    def forward(self, x: Tensor) -> Tensor:
        return self._encode(x)


def install(weights: Path, folder: Path = BENCH_FOLDER / "runtimes") -> Path:
    """The interpreter of their environment, with the export written. Raises PeerUnavailable, CommandFailed."""
    behind, trial = Path(sysconfig.get_path("purelib")), ["-c", "import onnxruntime, onnxscript, open_clip, openvino"]
    interpreter = environment.install("ONNX Runtime and OpenVINO", folder, PINS, trial, {}, behind)
    run([interpreter, "-m", "bench.runtimes", weights])
    return interpreter


def load(runtime: str, dtype: str, weights: Path) -> dict[str, Encode]:
    """{"image": (N, 3, H, W) float32 -> (N, D), "text": (N, 77) int64 -> (N, D)}, on all cores.

    runtime: "onnxruntime" or "openvino"; dtype: "float32", for openvino also "bfloat16", of its products.
    """
    make = _onnxruntime if runtime == "onnxruntime" else _openvino
    return {side: make(path, dtype) for side, path in _exports(weights).items()}


def _onnxruntime(path: Path, dtype: str) -> Encode:
    import onnxruntime

    assert dtype == "float32", "ONNX Runtime has no bfloat16 products on x86"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(path, options)
    return lambda batch: torch.from_numpy(session.run(None, {"x": batch.numpy()})[0])


def _openvino(path: Path, dtype: str) -> Encode:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": _HINTS[dtype], "PERFORMANCE_HINT": "THROUGHPUT"}  # faster here than LATENCY
    queue = openvino.AsyncInferQueue(openvino.compile_model(path, "CPU", hints))

    def encode(batch: Tensor) -> Tensor:
        parts = batch.split(_OPENVINO_BATCH)
        found: list[Tensor] = [batch] * len(parts)
        queue.set_callback(
            lambda request, number: found.__setitem__(number, torch.tensor(request.get_output_tensor().data))
        )
        for number, part in enumerate(parts):
            queue.start_async({0: part.numpy()}, number)
        queue.wait_all()
        return torch.cat(found)

    return encode


def _exports(weights: Path) -> dict[str, Path]:
    return {side: weights.with_suffix(f".{side}.onnx") for side in ("image", "text")}


def main() -> None:
    """Write the export, if missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.runtimes", description="Export a checkpoint to ONNX.")
    parser.add_argument("weights", type=Path, help="a checkpoint of bench.weights' model")
    weights = parser.parse_args().weights
    paths = _exports(weights)
    if all(path.exists() for path in paths.values()):
        return
    logging.disable(logging.WARNING)
    clip = open_clip.create_model(MODEL, pretrained=str(weights)).eval()
    examples: dict[str, Any] = {
        "image": (clip.encode_image, torch.zeros(2, 3, 224, 224)),
        "text": (clip.encode_text, torch.ones(2, 77, dtype=torch.long)),
    }
    for side, (encode, example) in examples.items():
        half = paths[side].with_suffix(".tmp.onnx")
        any_size = ({0: torch.export.Dim("n")},)
        torch.onnx.export(
            _Side(encode, clip).eval(),
            (example,),
            half,
            input_names=["x"],
            dynamic_shapes=any_size,
            external_data=False,
        )
        half.rename(paths[side])


if __name__ == "__main__":
    main()
