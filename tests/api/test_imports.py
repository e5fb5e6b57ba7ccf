"""Flask and waitress are imported only to serve."""

import subprocess
import sys
from pathlib import Path

from machine import PATIENCE

ROOT = Path(__file__).parents[2]
CODE = """
import sys
import api.__main__, api.commands.export, api.commands.predict, api.commands.predict_folder
web = {"flask", "waitress"}
print(sorted(web & sys.modules.keys()))
import api.server
print(sorted(web & sys.modules.keys()))
"""


def test_commands_do_not_import_the_web_stack() -> None:
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.splitlines() == ["[]", "['flask', 'waitress']"]
