"""Pictures behind a URL at 50 ms a request: pictures a second, and requests for each. Goal: 100 a second, one request.

    python -m bench.remote    (`make bench-remote`)

A server on this machine waits before each answer and counts. Ours is the job as a whole with the tests' fake encoder in
place of CLIP: hashed, decoded, embedded, and once more with all cached. Beside it fsspec's `cat` of all, hashed and
decoded, and img2dataset in an environment of its own, which stores the pictures without resizing them. Imports are left
out for the first two.
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec

from bench import environment
from bench.copies import write_copies
from bench.machine import BENCH_FOLDER, describe, print_json, python, run, say, verdict
from embed.job import embed_dataset
from embed.pictures.decoding import decode_picture
from embed.plan.settings import EmbedSettings
from tests.fakes import FakeEncoder

_GOAL = 100.0
_PINS = ("img2dataset==1.47.0", "setuptools==80.10.2")
# of fsspec and of img2dataset, as ours on two cores
_AT_ONCE = 32


def main() -> int:
    """Serve, and measure one after the other."""
    args = _parser().parse_args()
    if args.measure:
        print(json.dumps(_MEASURES[args.measure](args.data, args.url)))
        return 0
    machine, results = describe(), dict[str, dict[str, Any]]()
    peer = environment.install(
        "img2dataset",
        BENCH_FOLDER / "img2dataset",
        _PINS,
        ["-c", "import img2dataset"],
        {"NO_ALBUMENTATIONS_UPDATE": "1"},
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-remote-") as folder,
        _server(Path(folder, "memes"), args.delay) as (url, requests),
    ):
        data = Path(folder, "memes")
        write_copies(args.data, data, args.memes)
        names = _names(data)
        (data.parent / "urls.txt").write_text("\n".join(f"{url}/{name}" for name in names), "utf-8")
        download: list[str | Path] = [peer.with_name("img2dataset"), data.parent / "urls.txt"]
        download += ["--output_folder", data.parent / "out"]
        options = {
            "resize_mode": "no",
            "processes_count": 2,
            "thread_count": _AT_ONCE // 2,
            "disallowed_header_directives": "[]",
        }
        commands: dict[str, Sequence[str | Path]] = {
            "ours": python("bench.remote", "--measure", "ours", "--data", data, "--url", url),
            "ours, all cached": python("bench.remote", "--measure", "ours", "--data", data, "--url", url),
            "fsspec cat": python("bench.remote", "--measure", "fsspec", "--data", data, "--url", url),
            "img2dataset, whole command": [*download, *(f"--{name}={value}" for name, value in options.items())],
        }
        for name, command in commands.items():
            requests.clear()
            done = run(command, {"NO_ALBUMENTATIONS_UPDATE": "1"})
            seconds = done.seconds if name.startswith("img2") else done.last_json()["seconds"]
            results[name] = {"per_s": round(args.memes / seconds, 1), "requests": dict(requests)}
            say(f"{name}: {results[name]}")
    first = results["ours"]
    met = first["per_s"] >= _GOAL and sum(first["requests"].values()) == args.memes
    print(f"{args.memes:,} pictures, {args.delay * 1000:.0f} ms a request    pictures/s   requests")
    for name, one in results.items():
        print(f"{name:36}{one['per_s']:10.1f}   {one['requests']}")
    print(f"goal for ours, {_GOAL:.0f} a second with one request each: {verdict(met)}")
    print_json({"benchmark": "remote", "machine": machine, "memes": args.memes, "results": results, "met": met})
    return 0


@contextmanager
def _server(folder: Path, delay: float) -> Iterator[tuple[str, Counter[str]]]:
    """The URL of the folder, and the numbers of requests by method."""
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            requests[self.command] += 1
            time.sleep(delay)
            data = (folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{self.path}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/images", requests
        server.shutdown()


def _names(data: Path) -> list[str]:
    with (data / "memes.csv").open(encoding="utf-8", newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def _ours(data: Path, url: str) -> dict[str, float]:
    weights, names = data.parent / "weights", _names(data)
    weights.write_bytes(b"none")
    settings = EmbedSettings(str(data / "memes.csv"), "fake", str(weights), data.parent / "artifacts", images=url)
    # with a validation split no near-copies are looked for
    splits = ["train", *["validation"] * (len(names) - 1)]
    started = time.monotonic()
    with patch("embed.clip.encoder.load_encoder", lambda *_, **__: FakeEncoder(weights)):
        summary = embed_dataset(settings, say=say, splits=splits)
    assert not summary.skipped
    return {"seconds": time.monotonic() - started}


def _fsspec(data: Path, url: str) -> dict[str, float]:
    urls = [f"{url}/{name}" for name in _names(data)]
    started = time.monotonic()
    for found in fsspec.filesystem("http").cat(urls, batch_size=_AT_ONCE).values():
        hashlib.sha256(found)
        decode_picture(found)
    return {"seconds": time.monotonic() - started}


_MEASURES = {"ours": _ours, "fsspec": _fsspec}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.remote", description="Pictures at 50 ms a request.")
    parser.add_argument("--data", type=Path, default=Path("demo/memes"), help="pictures to copy (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before an answer (default: %(default)s)")
    parser.add_argument("--measure", choices=_MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
