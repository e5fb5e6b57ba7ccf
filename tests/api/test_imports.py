"""Flask and waitress are imported only to serve."""

import subprocess
import sys
from pathlib import Path

import pytest
from machine import PATIENCE

ROOT = Path(__file__).parents[2]
WEB = {"flask", "waitress"}


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
