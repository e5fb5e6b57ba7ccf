"""`python -m container` (what `make image-check` runs): the images are built, and tried as they will run.

Without a container engine: Debian's mmdebstrap makes a stand-in for the base image, buildah builds, and what it built
runs unprivileged on a read-only root without a network. The server must become ready by the image's own health check,
judge a meme with its words and one that it has to read, explain itself, and end by SIGTERM with exit 0 in the time that
an engine gives it. The batch image must embed the memes that are in it.

Wants root, and names the tools that are missing. Exit 0: all of it held; 1: something did not; 2: it could not begin.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from container.build import CommandFailed, Image, Workshop, run
from container.running import Running, running
from demo.examples import Example, pair

_TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "ip": "iproute2", "nsenter": "util-linux"}
_WORKSHOP = Path("artifacts/container")
_TMP = {"/tmp": "size=1g,mode=1777"}
_READY_SECONDS = 60
# What `docker stop` grants before it kills.
_STOP_SECONDS = 10
# With the image's own Python, inside: there is no way in by network.
_ASK = """
import http.client, os, sys
server = http.client.HTTPConnection("127.0.0.1", int(os.environ["API_PORT"]), timeout=60)
server.request("POST", "/predict", sys.stdin.buffer.read(), {"Content-Type": "application/json"})
answer = server.getresponse()
print(answer.read().decode())
sys.exit(answer.status != 200)
"""


def main(arguments: list[str] | None = None) -> int:
    """Check the files, build, run, ask, stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m container", description="Build the images and try them.")
    parser.add_argument("--torch-index-url", help="build argument TORCH_INDEX_URL (default: the Dockerfile's)")
    options = parser.parse_args(arguments)
    lacking = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if os.geteuid() != 0 or lacking:
        print(f"error: this wants root{' and apt-get install ' if lacking else ''}{' '.join(lacking)}", file=sys.stderr)
        return 2
    _WORKSHOP.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(_WORKSHOP.resolve())
    url = options.torch_index_url
    build_arguments = {} if url is None else {"TORCH_INDEX_URL": url}
    try:
        _lint()
        _try_server(workshop.build("serve", build_arguments))
        _try_batch(workshop.build("batch", build_arguments))
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        workshop.close()
    print(f"all of it held; what was built is kept for the next time in {_WORKSHOP} (some 20 GB)")
    return 0


def _lint() -> None:
    beside = os.path.dirname(sys.executable)
    commands = [
        [f"{beside}/hadolint", "Dockerfile"],
        [f"{beside}/check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
    ]
    compose = _compose()
    if compose:
        commands.append([*compose, "--profile", "gpu", "config", "--quiet"])
    for command in commands:
        run(command)
    by = " ".join(compose) if compose else "its schema alone, for want of Docker Compose 2"
    print(f"Dockerfile and docker-compose.yml: nothing to complain of (the latter by {by})")


def _compose() -> list[str]:
    """Docker Compose 2, as a part of docker or by itself; it reads a file without an engine. Empty where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.removeprefix("v").startswith("1."):
                return command
    return []


def _try_server(image: Image) -> None:
    print(
        f"serve: {_gigabytes(image.root)} GB, as user {image.user}: {' '.join(image.entrypoint)} {' '.join(image.arguments)}"
    )
    began = time.monotonic()
    log = _WORKSHOP / "serve.log"
    with running(image, image.arguments, _TMP, log) as server:
        _wait_until_ready(server, log)
        print(f"ready after {time.monotonic() - began:.1f} s, by its health check")
        for meme, words in zip(pair(), (True, False)):
            _ask(server, meme, words)
        code, seconds = server.stop(_STOP_SECONDS)
    if code != 0:
        raise CommandFailed(f"after SIGTERM: {f'exit {code}' if code is not None else 'still there'}\n{_tail(log)}")
    print(f"SIGTERM: exit 0 after {seconds:.1f} s")


def _wait_until_ready(server: Running, log: Path) -> None:
    for _ in range(_READY_SECONDS):
        if server.process.poll() is not None:
            break
        if server.execute(server.image.health).returncode == 0:
            return
        time.sleep(1)
    raise CommandFailed(f"the server did not become ready\n{_tail(log)}")


def _ask(server: Running, meme: Example, words: bool) -> None:
    picture = base64.b64encode(meme.picture.read_bytes()).decode()
    body = {"image": picture, "explain": True, **({"text": meme.text} if words else {})}
    done = server.execute(["python3", "-c", _ASK], json.dumps(body).encode())
    print(f"POST /predict {meme.picture.name} (labelled {meme.label})\n{done.stdout.decode()}", end="")
    if done.returncode:
        raise CommandFailed(f"no prediction: {done.stderr.decode()}")
    answer = json.loads(done.stdout)
    if answer["text"]["source"] != ("request" if words else "ocr") or not answer["explanation"]["neighbours"]:
        raise CommandFailed("the text is not from where it should be, or there is no explanation")


def _try_batch(image: Image) -> None:
    print(f"batch: {_gigabytes(image.root)} GB, as user {image.user}: {' '.join(image.entrypoint)} embed")
    log = _WORKSHOP / "batch.log"
    writable = {**_TMP, "/app/artifacts": "mode=1777"}
    with running(image, ["embed"], writable, log) as job:
        code = job.process.wait()
    print(_tail(log))
    if code:
        raise CommandFailed(f"make embed: exit {code}")


def _gigabytes(root: Path) -> str:
    return f"{int(run(['du', '-sxk', str(root)]).split()[0]) / 1e6:.1f}"


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:]


if __name__ == "__main__":
    sys.exit(main())
