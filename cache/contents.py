"""Which vector stores and dataset indexes a folder of results holds."""

import json
import re
import shlex
from pathlib import Path

from cache.layout import FEATURES, LONG_TEXTS, Layout
from cache.store.lock import LOCK_FILE
from cache.store.spec import Spec, spec_id
from cache.store.vector_store import VectorStore

# The `model` in the source of an index whose vectors were made elsewhere.
IMPORTED = "imported"
# What the embedding job does unless told otherwise.
_USUAL = (FEATURES[0], LONG_TEXTS[0], "auto")
_SPEC_ID = re.compile(r"[0-9a-f]{12}")


class NoCache(ValueError):
    """A folder without vectors and indexes, where some were expected."""


class UnusableStore(ValueError):
    """A store's folder whose spec cannot be told."""


def store_folders(artifacts: Path) -> list[Path]:
    """The stores' folders that hold anything, in the order of their names. Raises NoCache."""
    layout = Layout(artifacts)
    if not layout.vectors.is_dir() and not layout.datasets.is_dir():
        raise NoCache(f"{artifacts}: neither vectors/ nor datasets/ is there; `make embed` makes them")
    folders = sorted(p for p in layout.vectors.glob("*") if _SPEC_ID.fullmatch(p.name) and p.is_dir())
    # a job that was stopped before its first row leaves the lock alone
    return [folder for folder in folders if any(path.name != LOCK_FILE for path in folder.iterdir())]


def index_files(artifacts: Path) -> list[Path]:
    """The indexes' files, in the order of their names."""
    return sorted(Layout(artifacts).datasets.glob("*.h5"))


def stored_spec(folder: Path) -> Spec:
    """The spec of a store. Raises UnusableStore where it is missing, damaged or another folder's."""
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


def remedy(source: dict[str, str]) -> str:
    """The command that makes the vectors and the index of a data set again, from the `source` in its index."""
    if source["model"] == IMPORTED:
        return f"python -m cache import {shlex.quote(source['data'])} NAME"
    words = {name.upper(): value for name, value in source.items() if value not in ("", *_USUAL)}
    return "make embed " + " ".join(f"{name}={shlex.quote(value)}" for name, value in words.items())
