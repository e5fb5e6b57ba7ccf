"""The folder of results: which vector stores and dataset indexes stand in it.

    <artifacts>/vectors/<spec id>/   one store per feature spec
    <artifacts>/datasets/*.h5        one index per data set and encoder

It knows their places and names; what is in them is the other modules' business.
"""

import json
import re
import shlex
from pathlib import Path

from cache.index.dataset_index import FEATURES, LONG_TEXTS
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


def vectors_folder(artifacts: Path) -> Path:
    """Where the stores stand."""
    return artifacts / "vectors"


def datasets_folder(artifacts: Path) -> Path:
    """Where the indexes stand."""
    return artifacts / "datasets"


def store_folders(artifacts: Path) -> list[Path]:
    """The stores' folders that hold anything, in the order of their names. Raises NoCache."""
    if not vectors_folder(artifacts).is_dir() and not datasets_folder(artifacts).is_dir():
        raise NoCache(f"{artifacts}: neither vectors/ nor datasets/ is there; `make embed` makes them")
    folders = sorted(p for p in vectors_folder(artifacts).glob("*") if _SPEC_ID.fullmatch(p.name) and p.is_dir())
    # a job that was stopped before its first row leaves the lock alone
    return [folder for folder in folders if any(path.name != LOCK_FILE for path in folder.iterdir())]


def index_files(artifacts: Path) -> list[Path]:
    """The indexes' files, in the order of their names."""
    return sorted(datasets_folder(artifacts).glob("*.h5"))


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
