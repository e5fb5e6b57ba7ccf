"""Flask and waitress are imported only to serve, and imports within `api` follow the order of its layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from machine import PATIENCE

ROOT = Path(__file__).parents[2]
WEB = {"flask", "waitress"}
BASE = ("settings", "schema", "metrics", "memory")
# What the modules of each layer may import of `api`, beside their own layer.
MAY_IMPORT = {
    "model": BASE,
    "http": (*BASE, "model"),
    "transport": (*BASE, "model", "http"),
    "server": (*BASE, "model", "http", "transport"),
    "commands": (*BASE, "model"),
    "__main__": (*BASE, "commands", "server"),
    **dict.fromkeys(BASE, BASE),
}


def imported(*arguments: str) -> set[str]:
    """Top-level names of the modules that Python imports when called with these arguments."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [("-m", "api", "predict", "--help"), ("-c", "import api.commands.export, api.commands.predict_folder")],
    ids=["predict", "commands"],
)
def test_commands_do_not_import_the_web_stack(arguments: tuple[str, ...]) -> None:
    found = imported(*arguments)
    assert "torch" in found and not found & WEB


def test_the_server_imports_the_web_stack() -> None:
    assert imported("-c", "import api.server") >= WEB


def wrong_imports(layer: str, source: str) -> list[str]:
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    names = [node.module.split(".")[1] for node in nodes if node.module and node.module.startswith("api.")]
    return [name for name in names if name not in (layer, *MAY_IMPORT[layer])]


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_in_order(layer: str) -> None:
    paths = [
        path
        for path in (ROOT / "api").rglob("*.py")
        if path.relative_to(ROOT / "api").parts[0] in (layer, f"{layer}.py")
    ]
    assert paths
    wrong = {path.name: found for path in paths if (found := wrong_imports(layer, path.read_text("utf-8")))}
    assert not wrong


def test_a_wrong_import_is_found() -> None:
    assert wrong_imports("commands", "def run():\n    from api.http.app import create_app") == ["http"]
