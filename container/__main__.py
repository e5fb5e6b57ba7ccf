"""Build the container images without Docker and test them.

    python -m container    (`make image-check`)

mmdebstrap makes a substitute for the base image, buildah builds, and the images run unprivileged on a read-only root
without a network. The server must pass the image's health check, classify a meme with given text and one by OCR,
explain the results, and exit with 0 after SIGTERM within Docker's grace period. The batch image must embed the memes in
it.

Needs root. Exit 0: all checks passed; 1: a check failed; 2: no root, or tools are missing.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cache.edge import Parser, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from container.build import CommandFailed, Image, ImageBuilder, run
from container.running import Running, running
from demo.examples import Example, pair

_TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "ip": "iproute2", "nsenter": "util-linux"}
_FOLDER = Path("artifacts/container")
_TMP = {"/tmp": "size=1g,mode=1777"}
_READY_SECONDS = 60
# Grace period of `docker stop` before SIGKILL.
_STOP_SECONDS = 10
# Runs inside with the image's own Python: the container has no network to the outside.
_REQUEST = """
import http.client, os, sys
server = http.client.HTTPConnection("127.0.0.1", int(os.environ["API_PORT"]), timeout=60)
server.request("POST", "/predict", sys.stdin.buffer.read(), {"Content-Type": "application/json"})
answer = server.getresponse()
print(answer.read().decode())
sys.exit(answer.status != 200)
"""


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Check the files, build and test both images; return the exit code."""
    parser = Parser(prog="python -m container", description="Build the images and test them.")
    parser.add_argument("--torch-index-url", help="build argument TORCH_INDEX_URL (default: the Dockerfile's)")
    options = parser.parse_args(arguments)
    lacking = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if os.geteuid() != 0 or lacking:
        print(f"error: needs root{' and apt-get install ' if lacking else ''}{' '.join(lacking)}", file=sys.stderr)
        return 2
    _FOLDER.mkdir(parents=True, exist_ok=True)
    builder = ImageBuilder(_FOLDER.resolve())
    url = options.torch_index_url
    build_arguments = {} if url is None else {"TORCH_INDEX_URL": url}
    try:
        _lint()
        _check_server(builder.build("serve", build_arguments))
        _check_batch(builder.build("batch", build_arguments))
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        builder.close()
    print(f"all checks passed; build layers are kept in {_FOLDER} for the next run (about 20 GB)")
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
    by = " ".join(compose) if compose else "its schema only; Docker Compose 2 is not installed"
    print(f"Dockerfile and docker-compose.yml: valid (the latter by {by})")


def _compose() -> list[str]:
    """The command of Docker Compose 2, as plugin or program, which needs no engine to check a file; [] if absent."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.removeprefix("v").startswith("1."):
                return command
    return []


def _check_server(image: Image) -> None:
    print(
        f"serve: {_gigabytes(image.root)} GB, as user {image.user}: {' '.join(image.entrypoint)} {' '.join(image.arguments)}"
    )
    began = time.monotonic()
    log = _FOLDER / "serve.log"
    with running(image, image.arguments, _TMP, log) as server:
        _wait_until_ready(server, log)
        print(f"ready after {time.monotonic() - began:.1f} s, by its health check")
        for meme, with_text in zip(pair(), (True, False)):
            _predict(server, meme, with_text)
        code, seconds = server.stop(_STOP_SECONDS)
    if code != 0:
        raise CommandFailed(f"after SIGTERM: {f'exit {code}' if code is not None else 'still running'}\n{_tail(log)}")
    print(f"SIGTERM: exit 0 after {seconds:.1f} s")


def _wait_until_ready(server: Running, log: Path) -> None:
    for _ in range(_READY_SECONDS):
        if server.process.poll() is not None:
            break
        if server.execute(server.image.health).returncode == 0:
            return
        time.sleep(1)
    raise CommandFailed(f"the server did not become ready\n{_tail(log)}")


def _predict(server: Running, meme: Example, with_text: bool) -> None:
    picture = base64.b64encode(meme.picture.read_bytes()).decode()
    body = {"image": picture, "explain": True, **({"text": meme.text} if with_text else {})}
    done = server.execute(["python3", "-c", _REQUEST], json.dumps(body).encode())
    print(f"POST /predict {meme.picture.name} (labelled {meme.label})\n{done.stdout.decode()}", end="")
    if done.returncode:
        raise CommandFailed(f"no prediction: {done.stderr.decode()}")
    answer = json.loads(done.stdout)
    if answer["text"]["source"] != ("request" if with_text else "ocr") or not answer["explanation"]["neighbours"]:
        raise CommandFailed("the text has the wrong source, or there is no explanation")


def _check_batch(image: Image) -> None:
    print(f"batch: {_gigabytes(image.root)} GB, as user {image.user}: {' '.join(image.entrypoint)} embed")
    log = _FOLDER / "batch.log"
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
    run_as_command(main)
