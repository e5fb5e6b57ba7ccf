"""The arrows between rooms and between their sub-rooms, and who alone may import which library."""

import ast
from collections.abc import Iterator
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
    "demo": {"cache"},
    "bench": {"api", "cache", "embed", "finetune", "head"},
    "container": {"cache", "demo"},
}
# Sub-rooms and modules of a room, lowest first: each may import those before it. `__init__` and `__main__` import any.
WITHIN = {
    room: tuple(order.split())
    for room, order in {
        "cache": "errors exports edge cores files columns hdf5 layout bundles store demo index contents exchange verify stats",
        "embed": "base pictures data clip ocr engines plan audit published job",
        "head": "request data model candidates search judge fitting pipeline bundle nested tuning rethreshold scoring tables version_commands command",
        "api": "settings pid_file schema metrics memory model commands http transport server",
    }.items()
}
ONLY_IN = {
    "h5py": {"cache", "bench"},
    "pyarrow": {"cache/exchange", "embed/data"},
    "python_calamine": {"embed/data"},
    "upath": {"embed/pictures"},
    "ray": {"embed/engines"},
    "open_clip": {"embed/clip", "demo", "bench"},
    "PIL": {"embed", "demo", "bench"},
    "rapidocr": {"embed/ocr", "bench"},
    "onnxruntime": {"embed/ocr", "bench"},
    "optuna": {"head/search", "bench"},
    "sklearn": {"head", "bench"},
    "matplotlib": {"report"},
    "jinja2": {"embed/audit", "report"},
    "filelock": {"cache/store"},
    "tabulate": {"head"},
    "imagehash": {"embed/data"},
    "flask": {"api/http", "bench"},
    "waitress": {"api/transport", "bench"},
}


def imported(source: str) -> Iterator[str]:
    """Every module that a module imports, by its full name, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms import each other by their full names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What a module, "room/sub_room/module.py", imports and may not."""
    room, place = path.split("/")[0], path.removesuffix(".py").split("/")[1]
    order = WITHIN.get(room, ())
    wrong = []
    for name in imported(source):
        top, _, rest = name.partition(".")
        foreign = top in MAY_IMPORT and top != room and top not in MAY_IMPORT[room]
        target = rest.split(".")[0]
        backward = top == room and place in order and target in order and order.index(target) > order.index(place)
        owned = not any(f"{path}/".startswith(f"{owner}/") for owner in ONLY_IN.get(top, {room}))
        if foreign or backward or owned:
            wrong.append(f"{path} imports {name}")
    return wrong


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_arrow_runs_the_right_way(room: str) -> None:
    modules = [(path.relative_to(ROOT).as_posix(), path) for path in sorted((ROOT / room).rglob("*.py"))]
    assert modules, f"no modules in {room}"
    assert [said for name, path in modules for said in violations(name, path.read_text("utf-8"))] == []


@pytest.mark.parametrize("room", WITHIN)
def test_every_sub_room_has_its_place_in_the_order(room: str) -> None:
    there = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == set(WITHIN[room])


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cache/files.py", "import embed.job"),
        ("head/fitting.py", "def f():\n    from embed.base import text"),
        ("api/http/app.py", "import h5py"),
        ("api/model/reading.py", "def f():\n    from rapidocr import RapidOCR"),
        ("api/server.py", "from report import page"),
        ("report/page.py", "from api.http.app import create_app"),
        ("finetune/train.py", "import open_clip"),
        ("embed/audit/command.py", "from open_clip.factory import load_checkpoint"),
        ("head/nested.py", "import matplotlib.pyplot"),
        ("api/model/classifier.py", "from flask import request"),
        ("api/model/classifier.py", "def f():\n    from api.http import app"),
        ("cache/store/segments.py", "from cache.index.parts import PARTS"),
        ("embed/pictures/locate.py", "from embed.data.tables import DatasetError"),
        ("head/judge/metrics.py", "import head.fitting"),
    ],
)
def test_a_wrong_arrow_is_named(path: str, source: str) -> None:
    (said,) = violations(path, source)
    assert said.startswith(f"{path} imports ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("embed/clip/encoder.py", "import open_clip"),
        ("cache/index/parts.py", "from cache.files import write_bytes_atomically"),
        ("api/__main__.py", "from api.server import serve"),
        ("bench/serve.py", "import flask"),
    ],
)
def test_a_right_arrow_is_allowed(path: str, source: str) -> None:
    assert violations(path, source) == []
