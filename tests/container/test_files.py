"""The images hold what they need and no more, and what the files say of the server is so."""

import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from api.settings import ServeSettings
from api.transport.listener import STOP_SECONDS
from container.build import _exec_form, _pip_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
LISTS = {"serve": ["serve.txt"], "batch": ["serve.txt", "batch.txt"]}
# Run with the names of the distributions that an image holds: whatever comes from another is not there.
BLOCK = """
import ast, sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from importlib.util import find_spec

held, commands = sys.argv[1].split(","), sys.argv[2].split(",")
foreign = {
    name
    for name, owners in packages_distributions().items()
    if not any(owner.lower().replace("_", "-").replace(".", "-") in held for owner in owners)
}

class Held(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in foreign else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Held
for command in commands:
    __import__(command)
# what their functions import, as they are called
ours = ("api", "cache", "embed", "finetune", "head", "report")
for name, module in list(sys.modules.items()):
    if name.split(".")[0] in ours and getattr(module, "__file__", None):
        for node in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
            wanted = [node.module] if isinstance(node, ast.ImportFrom) else []
            wanted += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {name.split(".")[0] for name in wanted}:
                assert top in sys.modules or find_spec(top), f"{name} imports {top}"
"""


def lines(path: str) -> list[str]:
    text = (ROOT / path).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pinned() -> dict[str, str]:
    return {canonicalize_name(line.split("==")[0]): line for line in lines("requirements.txt")}


def closure(names: list[str]) -> set[str]:
    """The distributions that pip brings for these, by what the installed ones say that they want."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = f"{name}{sorted(wanted.extras)}"
        if key in found:
            continue
        found |= {name, key}
        try:
            needs = [Requirement(line) for line in requires(wanted.name) or []]
        except PackageNotFoundError:
            continue  # wanted on another kind of machine
        extras = wanted.extras or {""}
        waiting += [
            need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)
        ]
    return {name for name in found if "[" not in name}


@pytest.mark.parametrize("image", LISTS)
def test_an_images_packages_are_pinned_and_named_once(image: str) -> None:
    names = [canonicalize_name(line) for path in LISTS[image] for line in lines(f"container/{path}")]
    assert len(names) == len(set(names)) and set(names) <= pinned().keys()
    assert "pytest" not in names and all(
        "[" not in line for line in pinned().values()
    )  # pip's constraints have no extras


@pytest.mark.parametrize(
    ("image", "commands"),
    [
        ("serve", "api.__main__,api.server,rapidocr,onnxruntime"),
        (
            "batch",
            "embed.__main__,head.__main__,finetune.__main__,report.__main__,cache.__main__,api.__main__,psycopg,"
            + "pyarrow.parquet,embed.pictures.remote,embed.data.parquet_rows",
        ),
    ],
)
def test_what_an_image_runs_imports_nothing_that_it_lacks(image: str, commands: str) -> None:
    held = closure([line for path in LISTS[image] for line in lines(f"container/{path}")])
    assert "pytest" not in held
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, ",".join(held), commands], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]


def test_the_blocker_blocks() -> None:
    held = closure(lines("container/serve.txt"))
    command = [sys.executable, "-c", BLOCK, ",".join(held), "optuna"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "No module named 'optuna'" in done.stderr


def test_every_folder_that_an_image_copies_passes_the_dockerignore() -> None:
    allowed = {line[1:].rstrip("/") for line in lines(".dockerignore") if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE))
    named = {word.split("/")[0] for words in copied for word in words.split()} - {"."}
    assert named and named <= allowed
    assert {"api", "cache", "embed", "finetune", "head", "report", "demo", "Makefile"} <= allowed
    assert not allowed & {"data", "artifacts", ".git", ".venv", "keys.txt"}


def test_the_images_run_as_a_number_and_by_exec_form() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    assert stages[-1].startswith("base AS serve\n")
    for stage in stages[-2:]:
        users = re.findall(r"^USER (\d+):(\d+)$", stage, re.MULTILINE)
        assert users and "0" not in users[-1]
        assert re.findall(r"^(ENTRYPOINT|CMD) \[", stage, re.MULTILINE) == ["ENTRYPOINT", "CMD"]


def test_every_variable_of_the_server_exists() -> None:
    services = COMPOSE["services"].values()
    given = {name for service in services for name in service.get("environment", {})}
    given |= set(re.findall(r"\b(API_[A-Z_]+)=", DOCKERFILE))
    assert {"API_BUNDLE", "API_KEYS_FILE"} <= given <= {f"API_{field.name.upper()}" for field in fields(ServeSettings)}


@pytest.mark.parametrize("name", ["serve", "serve-gpu", "embed-gpu"])
def test_a_service_has_limits_and_no_rights(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"].endswith(":-10001:10001}")
    assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged")
    assert all(service[limit] for limit in ("cpus", "mem_limit", "pids_limit"))
    assert any(mount.startswith("/tmp:size=") for mount in service["tmpfs"])
    assert ("gpu" in name) == ("deploy" in service) == (service.get("profiles") == ["gpu"])


@pytest.mark.parametrize("name", ["serve", "serve-gpu"])
def test_a_server_is_given_longer_to_stop_than_it_takes(name: str) -> None:
    service = COMPOSE["services"][name]
    assert int(service["stop_grace_period"].removesuffix("s")) > STOP_SECONDS
    assert service["ports"] == ["${PUBLISH:-127.0.0.1:8080}:8080"], (
        "only this machine, until somebody decides otherwise"
    )
    assert "weights:/weights" in service["volumes"] and all(
        mount.endswith(":ro") for mount in service["volumes"] if not mount.startswith("weights:")
    )


@pytest.mark.parametrize(
    ("health", "command"),
    [
        ({"Test": ["CMD", "python3", "-c", "pass"]}, ["python3", "-c", "pass"]),
        ({"Test": ["CMD-SHELL", "true"]}, []),
        ({"Test": []}, []),
        (None, []),
    ],
)
def test_a_health_check_in_exec_form_is_found(health: dict[str, Any] | None, command: list[str]) -> None:
    assert _exec_form(health) == command


def test_pips_settings_and_what_they_name_reach_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, wheels = tmp_path / "index" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True), wheels.mkdir()
    settings = tmp_path / "pip.conf"
    settings.write_text(
        f"[global]\nfind-links = {wheels}\n    {tmp_path}/absent\nextra-index-url = file://{index}\n", "utf-8"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_TIMEOUT", "77")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mounts = dict(_pip_settings(scratch))
    assert mounts[str(scratch / "pip.conf")] == "/etc/pip.conf"
    # an index's pages lead to files beside it
    assert {str(wheels), str(index.parent)} <= mounts.keys() and f"{tmp_path}/absent" not in mounts
    written = (scratch / "pip.conf").read_text("utf-8")
    assert f"file://{index}" in written and "timeout = 77" in written
