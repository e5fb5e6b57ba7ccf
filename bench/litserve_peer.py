"""Peer (b) of `bench.serve`: the module under LitServe, as in LitServe's image-classifier benchmark.

    python -m bench.litserve_peer --bundle FOLDER --port N --workers N    (in the environment of `bench.servers`)

As there: batches of 8 on a CPU, 10 ms to fill one, ZeroMQ between processes, and decoding in `batch` with one thread
per core. It opens no network connection.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import litserve
import torch
from starlette.formparsers import MultiPartParser
from torch import Tensor

from api.model.classifier import MemeClassifier
from cache import cores
from embed.base.text import clean_text

MAX_BATCH, BATCH_TIMEOUT_S = 8, 0.01
# Larger uploads are spooled to disk, which LitServe cannot pass to its worker; ten of the real memes would be.
_UPLOAD_IN_MEMORY = 100_000_000


class MemeAPI(litserve.LitAPI):
    """The LitServe API; each worker process loads the module once. bundle, workers: set before the server starts."""

    bundle: Path
    workers: int

    def setup(self, device: str) -> None:
        """Load the module in a worker."""
        torch.set_num_threads(max(1, cores() // self.workers))
        self.classifier = MemeClassifier.from_bundle(self.bundle, torch.device(device))
        self.classifier.warm_up()
        self.pool = ThreadPoolExecutor(max(1, cores() // self.workers))

    def decode_request(self, request: litserve.Request) -> tuple[bytes, str]:
        """The form's picture and text; the annotation makes LitServe parse the form."""
        return request["image"].file.read(), request["text"]

    def batch(self, inputs: list[tuple[bytes, str]]) -> list[tuple[Tensor, Tensor]]:
        """Pixels and tokens of every meme."""
        return list(self.pool.map(self._prepare, inputs))

    def predict(self, x: list[tuple[Tensor, Tensor]]) -> list[float]:
        """One probability per meme."""
        pixels, tokens = zip(*x, strict=True)
        return self.classifier(pixels, tokens).tolist()

    def encode_response(self, output: float) -> dict[str, float]:
        """The response body."""
        return {"probability": output}

    def _prepare(self, meme: tuple[bytes, str]) -> tuple[Tensor, Tensor]:
        data, text = meme
        return self.classifier.prepare_image(data), self.classifier.prepare_text(clean_text(text))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.litserve_peer", description="The module under LitServe.")
    parser.add_argument("--bundle", type=Path, required=True, help="model bundle")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--workers", type=int, required=True, help="processes that each hold the module")
    args = parser.parse_args()
    MultiPartParser.spool_max_size = _UPLOAD_IN_MEMORY
    api = MemeAPI(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/predict")
    api.bundle, api.workers = args.bundle, args.workers
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=args.workers, fast_queue=True)
    server.run(host="127.0.0.1", port=args.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
