"""The arrows between the rooms: cache <- embed | head <- api | report | finetune, and who alone may import which library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "cache": set(),
    "embed": {"cache"},
    "head": {"cache"},
    "api": {"cache", "embed", "head"},
    "report": {"cache", "embed", "head"},
    "finetune": {"cache", "embed", "head"},
    "demo": set(),
    "bench": {"api", "cache", "embed", "finetune", "head"},
    "container": {"demo"},
}
ONLY_IN = {
    "h5py": {"cache", "bench"},
    "filelock": {"cache"},
    "pyarrow": {"cache", "embed"},
    "upath": {"embed"},
    "ray": {"embed"},
    "open_clip": {"embed", "demo", "bench"},
    "PIL": {"embed", "demo", "bench"},
    "imagehash": {"embed"},
    "rapidocr": {"embed", "bench"},
    "onnxruntime": {"embed", "bench"},
    "optuna": {"head", "bench"},
    "sklearn": {"head", "bench"},
    "matplotlib": {"report"},
    "jinja2": {"embed", "report"},
    "flask": {"api", "bench"},
    "waitress": {"api", "bench"},
}


def imported(source: str) -> set[str]:
    """Top-level names of every import in a module, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms import each other by their full names"
            names.add((node.module or "").split(".")[0])
    return names


def violations(room: str, source: str) -> set[str]:
    names = imported(source)
    foreign = (names & MAY_IMPORT.keys()) - MAY_IMPORT[room] - {room}
    return foreign | {name for name in names if room not in ONLY_IN.get(name, {room})}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_arrow_runs_the_right_way(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules, f"no modules in {room}"
    wrong = {str(path): found for path in modules if (found := violations(room, path.read_text("utf-8")))}
    assert not wrong


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cache", "import embed.job"),
        ("head", "def f():\n    from embed import text"),
        ("api", "import h5py"),
        ("api", "def f():\n    from rapidocr import RapidOCR"),
        ("api", "from report import page"),
        ("report", "from api.http.app import create_app"),
        ("finetune", "import open_clip"),
        ("api", "from finetune import train"),
        ("head", "import matplotlib.pyplot"),
    ],
)
def test_a_wrong_arrow_is_seen(room: str, source: str) -> None:
    assert violations(room, source)
