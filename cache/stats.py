"""Count the cache: one row per vector store and one per dataset index.

    python -m cache stats [--json]

Opening a store reads what has changed since a job last wrote to it.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from cache.contents import UnusableStore, index_files, open_store, store_folders
from cache.index.dataset_index import UnusableIndex, read_index
from cache.store.manifest import segment_files
from cache.store.segments import KINDS
from cache.store.spec import spec_id

Record = dict[str, Any]


def stats(artifacts: Path) -> dict[str, list[Record]]:
    """{"stores": [...], "indexes": [...]} as JSON values; an unreadable one has `problem`. Raises NoCache."""
    return {
        "stores": [_store(folder) for folder in store_folders(artifacts)],
        "indexes": [_index(path) for path in index_files(artifacts)],
    }


def _store(folder: Path) -> Record:
    size = sum(path.stat().st_size for path in segment_files(folder))
    try:
        store = open_store(folder)
    except UnusableStore as error:
        return {"spec_id": folder.name, "bytes": size, "problem": str(error)}
    return {
        "spec_id": folder.name,
        "model": "imported" if "imported" in store.spec else store.spec.get("model"),
        "feature": store.spec.get("feature"),
        "dtype": store.spec.get("dtype"),
        "images": len(store.keys("image")),
        "texts": len(store.keys("text")),
        "failures": sum(len(store.failures(kind)) for kind in KINDS),
        "segments": sum(len(store.headers(kind)) for kind in KINDS),
        "bytes": size,
        "damaged": len(store.damaged),
    }


def _index(path: Path) -> Record:
    try:
        index = read_index(path)
    except UnusableIndex as error:
        return {"index": path.name, "problem": str(error)}
    return {
        "index": path.name,
        "spec_id": spec_id(index.spec),
        "rows": len(index),
        "skipped": sum(1 for reason in index.skipped if reason),
        "splits": dict(Counter(index.splits)),
        "source": index.source,
    }
