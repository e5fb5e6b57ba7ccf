"""Peer (a) of `bench.serve`, a plain Flask view under waitress, and the module alone without HTTP.

    python -m bench.peers plain --bundle FOLDER --port N --threads N
    python -m bench.peers alone --bundle FOLDER --data FOLDER --seconds N

Both load the module as the server does. In the view, every request runs the module in its own thread.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import waitress
from flask import Flask, request
from torch import Tensor

from api.model.classifier import MemeClassifier
from bench.client import Meme, read_memes
from bench.machine import print_json
from cache import cores
from embed.base.text import clean_text

# Number of memes that warm up the contenders and whose probabilities are compared.
FIRST = 20
_BATCH_ROUNDS = 5


def main() -> None:
    """Serve until killed, or measure and print one JSON line."""
    args = _parser().parse_args()
    classifier = MemeClassifier.from_bundle(args.bundle, torch.device("cpu"))
    if args.command == "plain":
        classifier.warm_up()
        waitress.serve(_app(classifier), host="127.0.0.1", port=args.port, threads=args.threads)
    else:
        print_json(_alone(classifier, read_memes(args.data), args.seconds, args.batch))


def _app(classifier: MemeClassifier) -> Flask:
    app = Flask("plain")

    @app.post("/predict")
    def predict() -> dict[str, float]:
        pixels, tokens = _prepare(classifier, Meme(request.files["image"].read(), request.form["text"]))
        return {"probability": classifier([pixels], [tokens]).item()}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _prepare(classifier: MemeClassifier, meme: Meme) -> tuple[Tensor, Tensor]:
    return classifier.prepare_image(meme.data), classifier.prepare_text(clean_text(meme.text))


def _alone(classifier: MemeClassifier, memes: list[Meme], seconds: float, batch: int) -> dict[str, Any]:
    """ms per meme, one after the other for `seconds`; ms per batch, preprocessed on all cores and then run."""
    probabilities = [_judge(classifier, meme) for meme in memes[:FIRST]]
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        _judge(classifier, memes[len(taken) % len(memes)])
        taken.append((time.perf_counter() - started) * 1000)
    return {
        "ms": [round(ms, 3) for ms in taken],
        "batch_ms": _batch_ms(classifier, memes, batch),
        "probabilities": probabilities,
        "threads": torch.get_num_threads(),
    }


def _judge(classifier: MemeClassifier, meme: Meme) -> float:
    pixels, tokens = _prepare(classifier, meme)
    return classifier([pixels], [tokens]).item()


def _batch_ms(classifier: MemeClassifier, memes: list[Meme], batch: int) -> float:
    """Mean over several batches without the first: the first call with a batch size is slower."""
    with ThreadPoolExecutor(cores()) as pool:
        for number in range(_BATCH_ROUNDS + 1):
            if number == 1:
                started = time.perf_counter()
            some = memes[number * batch : (number + 1) * batch]
            pixels, tokens = zip(*pool.map(lambda meme: _prepare(classifier, meme), some), strict=True)
            classifier(pixels, tokens)
    return round((time.perf_counter() - started) * 1000 / _BATCH_ROUNDS, 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="What the server is compared with.")
    commands = parser.add_subparsers(dest="command", required=True)
    plain = commands.add_parser("plain", help="a Flask view under waitress")
    plain.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    plain.add_argument("--threads", type=int, required=True, help="waitress's")
    alone = commands.add_parser("alone", help="decoding and the module, without HTTP")
    alone.add_argument("--data", type=Path, required=True, help="folder of memes, or one CSV")
    alone.add_argument("--seconds", type=float, required=True, help="how long")
    alone.add_argument("--batch", type=int, required=True, help="memes in a batch")
    for command in (plain, alone):
        command.add_argument("--bundle", type=Path, required=True, help="model bundle")
    return parser


if __name__ == "__main__":
    main()
