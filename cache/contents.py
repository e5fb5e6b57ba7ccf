"""List the vector stores and dataset indexes under `artifacts/`."""

import json
import re
import shlex
from pathlib import Path

from cache.layout import FEATURES, LONG_TEXTS, Layout
from cache.store.lock import LOCK_FILE
from cache.store.spec import Spec, spec_id
from cache.store.vector_store import VectorStore

# `source["model"]` of an index whose vectors were imported from another program.
IMPORTED = "imported"
# Default settings of the embedding job, left out of `rebuild_command`.
_DEFAULTS = (FEATURES[0], LONG_TEXTS[0], "auto")
_SPEC_ID = re.compile(r"[0-9a-f]{12}")


class NoCache(ValueError):
    """The folder has neither vectors/ nor datasets/."""


class UnusableStore(ValueError):
    """A store's folder whose spec.json is missing, damaged or another store's."""


def store_folders(artifacts: Path) -> list[Path]:
    """The non-empty store folders, sorted by name. Raises NoCache."""
    layout = Layout(artifacts)
    if not layout.vectors.is_dir() and not layout.datasets.is_dir():
        raise NoCache(f"{artifacts}: neither vectors/ nor datasets/ exists; `make embed` creates them")
    folders = sorted(p for p in layout.vectors.glob("*") if _SPEC_ID.fullmatch(p.name) and p.is_dir())
    # a job that was stopped before its first row leaves the lock alone
    return [folder for folder in folders if any(path.name != LOCK_FILE for path in folder.iterdir())]


def index_files(artifacts: Path) -> list[Path]:
    """The index files, sorted by name."""
    return sorted(Layout(artifacts).datasets.glob("*.h5"))


def stored_spec(folder: Path) -> Spec:
    """The spec of a store. Raises UnusableStore."""
    path = folder / "spec.json"
    try:
        spec = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableStore(f"{path}: cannot be read ({error})") from error
    if not isinstance(spec, dict) or spec_id(spec) != folder.name:
        raise UnusableStore(f"{path}: not the spec whose hash names the folder")
    return spec


def open_store(folder: Path) -> VectorStore:
    """The store in a folder. Raises UnusableStore."""
    return VectorStore(folder.parent, stored_spec(folder))


def rebuild_command(source: dict[str, str]) -> str:
    """The command that recomputes the vectors and the index of a data set, from the `source` in its index."""
    if source["model"] == IMPORTED:
        return f"python -m cache import {shlex.quote(source['data'])} NAME"
    given = source | {"ocr": "on" if source.get("ocr") else ""}  # the index names the engine
    variables = {name.upper(): value for name, value in given.items() if value and value not in _DEFAULTS}
    return "make embed " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
