"""Build the Dockerfile with buildah on a base image made by mmdebstrap, without a registry."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Debian's release with the Python of the Dockerfile's own base.
_SUITE = "bookworm"
_BASE = "localhost/python-base"
# Packages of the official Python image that mmdebstrap's smallest variant lacks.
_BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# chroot: buildah may not be allowed to create namespaces
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}


class CommandFailed(RuntimeError):
    """A command of the check failed; the message has its output."""


@dataclass(frozen=True)
class Image:
    """A built image: its mounted root file system, and its config. health: the health check's command."""

    root: Path
    environment: dict[str, str]
    entrypoint: list[str]
    arguments: list[str]
    health: list[str]
    user: str
    folder: str


class ImageBuilder:
    """buildah with its store in `folder`; with cached layers a second build takes seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buildah = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def build(self, target: str, arguments: dict[str, str]) -> Image:
        """Build the Dockerfile's stage `target` with build arguments. Raises CommandFailed."""
        if _BASE not in self._run("images", "--format", "{{.Name}}"):
            self._make_base()
        given = {"PYTHON_IMAGE": _BASE, **arguments}
        with TemporaryDirectory() as scratch:
            self._run(
                *("bud", "--layers", "--format", "docker", "--pull-never", "--network", "host", "--target", target),
                *(word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")),
                *(word for source, place in _pip_settings(Path(scratch)) for word in ("-v", f"{source}:{place}:ro")),
                *("-t", f"localhost/{target}", "."),
                show=True,
            )
        return self._open(target)

    def _make_base(self) -> None:
        archive = self._folder / "base.tar"
        run(["mmdebstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", _SUITE, str(archive)], show=True)
        made = self._run("from", "scratch").strip()
        self._run("add", "-q", made, str(archive), "/")
        self._run("commit", "-q", "--format", "docker", "--rm", made, _BASE)
        archive.unlink()

    def _open(self, target: str) -> Image:
        config = json.loads(self._run("inspect", "--type", "image", f"localhost/{target}"))["Docker"]["config"]
        root = self._run("mount", self._run("from", "--pull-never", f"localhost/{target}").strip()).strip()
        return Image(
            root=Path(root),
            environment=dict(word.split("=", 1) for word in config["Env"]),
            entrypoint=config["Entrypoint"],
            arguments=config["Cmd"],
            health=_exec_form(config.get("Healthcheck")),
            user=config["User"],
            folder=config["WorkingDir"],
        )

    def close(self) -> None:
        """Unmount the images; images and cached layers are kept. Raises CommandFailed."""
        self._run("rm", "--all")
        self._run("rmi", "--prune")

    def _run(self, *words: str, show: bool = False) -> str:
        return run([*self._buildah, *words], show)


def _exec_form(health: dict[str, Any] | None) -> list[str]:
    """The command of a health check in exec form, else []."""
    form, *words = (health or {}).get("Test") or ["NONE"]
    return words if form == "CMD" else []


def _pip_settings(scratch: Path) -> list[tuple[str, str]]:
    """(path here, path in the build) of pip's settings on this machine, so that the build uses the same indexes: one
    config file, and the certificates and folders that it names."""
    settings: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, value = line.split("=", 1)
        section, option = name.split(".", 1)
        if section in ("global", "install", ":env:"):
            settings[option] = value.strip("'\"").replace("\\n", " ")
    (scratch / "pip.conf").write_text(
        "".join(["[global]\n", *(f"{option} = {value}\n" for option, value in settings.items())]), "utf-8"
    )
    # the pages of a local index link to files beside it
    named = re.findall(r"(file://)?(/\S+)", " ".join(settings.values()))
    places = {
        os.path.dirname(place.rstrip("/")) if scheme else place for scheme, place in named if os.path.exists(place)
    }
    return [(str(scratch / "pip.conf"), "/etc/pip.conf"), *((place, place) for place in sorted(places))]


def run(words: Sequence[str], show: bool = False) -> str:
    """Run a command and return its stdout; show: stream it to stderr instead. Raises CommandFailed with its output."""
    done = subprocess.run(
        words,
        env=os.environ | _ENVIRONMENT,
        stdout=sys.stderr if show else subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        output = f"{done.stdout or ''}{done.stderr or ''}"
        raise CommandFailed(f"{' '.join(words[:8])} ... failed with exit code {done.returncode}\n{output}")
    return done.stdout or ""
