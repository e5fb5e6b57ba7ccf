"""Run the whole pipeline on the demo data set and encoder.

    python -m demo    (`make demo`)

Embed, tune, report, serve on a free port, classify one offensive and one harmless meme over HTTP, stop the server. It
runs the other rooms' commands as a user would.
"""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.edge import Parser, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from demo.examples import Example, pair

# Enough for these easy memes; the default for real ones takes several times as long.
_TRIALS = "40"
_STOP_SECONDS = 20
# The server's log of one JSON line per request, kept out of the demo's output.
_LOG = Path("artifacts/serve.log")
_NEXT_STEPS = """All results are in artifacts/.

next
  open the report's page in a browser, at the path printed above
  make serve    then open http://127.0.0.1:8080 and try one of the pictures in demo/memes on the page
  make help

for your own memes, with a real model: this encoder knows only the drawn pictures of the demo
  make embed DATA=<folder with your memes> MODEL=ViT-B-32 PRETRAINED=openai
  make tune DATA=<the same> MODEL=ViT-B-32 PRETRAINED=openai    then make report, make serve"""


@exit_codes("stopped; run it again to continue, finished steps are kept")
def main(arguments: list[str] | None = None) -> int:
    """Run every step; return the first failing step's exit code, or 0."""
    Parser(
        prog="python -m demo", description="Embed, tune, report and serve the demo data set, and classify two memes."
    ).parse_args(arguments)
    started = time.monotonic()
    for title, command in (
        ("embed: CLIP vectors of every picture and text, once", ["embed"]),
        ("tune: search the fusion head over those vectors", ["head", "tune", "--trials", _TRIALS]),
        ("report: evaluation on the test memes, and the report page", ["report"]),
    ):
        _say(title)
        code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        if code:
            return code
    _say("serve: CLIP and head together over HTTP")
    with _server() as url:
        for meme in pair():
            _predict(url, meme)
    _say(f"done in {time.monotonic() - started:.0f} s")
    print(_NEXT_STEPS)
    return 0


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


@contextmanager
def _server() -> Iterator[str]:
    """A server on a free port, stopped by SIGTERM afterwards; yields its URL."""
    command = [sys.executable, "-m", "api", "serve", "--port", "0"]
    # settings of another server, such as its keys, are not the demo's
    usual = {name: value for name, value in os.environ.items() if not name.startswith("API_")}
    with (
        _LOG.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=usual) as process,
    ):
        try:
            line = process.stdout.readline().strip() if process.stdout else ""
            if not line:
                code = process.wait()
                sys.stderr.write(_LOG.read_text("utf-8"))
                raise SystemExit(code or 1)
            print(line)
            yield line.rsplit(" ", 1)[1]
        finally:
            process.terminate()
            code = process.wait(_STOP_SECONDS)
    print(f"server stopped (exit {code})")


def _predict(url: str, meme: Example) -> None:
    body = {"image": base64.b64encode(meme.picture.read_bytes()).decode(), "text": meme.text}
    request = urllib.request.Request(f"{url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"})
    # a proxy (http_proxy) cannot reach this machine's own address
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as response:
        answer = json.load(response)
    print(f"\nPOST /predict  {meme.picture}  (labelled {meme.label})")
    print(json.dumps(answer, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    run_as_command(main)
