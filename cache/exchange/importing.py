"""Take in vectors from a .npz or .parquet file: a dataset index, and a store that holds its vectors.

    python -m cache import vectors.npz NAME     then: make tune DATA=artifacts/datasets/NAME.h5

A file of `export` goes back under its own spec and keys. Vectors made elsewhere get a spec that names the file, so
that they are never mixed with our encoder's, and each is keyed by its own bytes. It knows no file format.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cache.contents import IMPORTED
from cache.exchange.formats import Origin, Rows, read_rows
from cache.index.dataset_index import DatasetIndex, UnusableIndex, read_index, write_index
from cache.index.parts import part_of
from cache.layout import Layout
from cache.store.compaction import MOST_ROWS
from cache.store.keys import content_key, file_digest, text_key
from cache.store.segments import Segment
from cache.store.vector_store import VectorStore

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class NameTaken(ValueError):
    """A name for the new index that cannot be used."""


def import_rows(file: Path, name: str, artifacts: Path, say: Callable[[str], None]) -> Path:
    """Write the index `name` and the vectors that the store lacks; return the index's path. `say` takes notes.

    Raises UnusableTable, NameTaken and OSError.
    """
    if not _NAME.fullmatch(name):
        raise NameTaken(f"{name!r}: expected a name of letters, digits, dots, - and _, without a folder")
    path = Layout(artifacts).named_index(name)
    rows = read_rows(file)
    origin = rows.origin or _elsewhere(file, rows)
    index = _index(rows, origin)
    _require_free(path, index)
    store = VectorStore(Layout(artifacts).vectors, origin.spec)
    with store.locked(lambda: say("another job is filling this cache; waiting for it")):
        if store.damaged and not rows.origin:
            say(f"{store.folder}: {len(store.damaged)} damaged segments; their rows are made again from {file}")
            store.forget_damaged()
        _add(store, "image", origin.image_keys, rows.image, [0] * len(rows.ids))
        _add(store, "text", origin.text_keys, rows.text, origin.text_tokens)
        _add_prompts(store, origin)
    write_index(path, index)
    return path


def _elsewhere(file: Path, rows: Rows) -> Origin:
    spec = {
        "format": 1,
        "imported": file_digest(file),
        "image_dim": rows.image.shape[1],
        "text_dim": rows.text.shape[1],
    }
    none = [0] * len(rows.ids)
    image_keys, text_keys = ([content_key(row.tobytes()) for row in side] for side in (rows.image, rows.text))
    return Origin(
        image_keys, text_keys, none, none, spec, {"data": str(file.resolve()), "model": IMPORTED, "pretrained": ""}
    )


def _index(rows: Rows, origin: Origin) -> DatasetIndex:
    none = [""] * len(rows.ids)
    prompts: dict[str, list[str]] = {}
    for prompt in origin.prompts:
        prompts.setdefault(prompt.label, []).append(prompt.text)
    return DatasetIndex(
        ids=rows.ids,
        splits=rows.splits,
        labels=rows.labels,
        images=none,
        texts=none,
        image_keys=origin.image_keys,
        text_keys=origin.text_keys,
        skipped=none,
        text_tokens=origin.text_tokens,
        text_cut=origin.text_cut,
        image_stamps=none,
        spec=origin.spec,
        source=origin.source,
        groups=rows.groups,
        parts=rows.parts or ([] if rows.origin else _parts(rows)),
        prompts=prompts,
    )


def _parts(rows: Rows) -> list[int]:
    """By their ids: there are no pictures, and vectors are an encoder's."""
    return [-1 if "validation" in rows.splits else part_of(name) for name in rows.ids]


def _require_free(path: Path, index: DatasetIndex) -> None:
    """An index of the embedding job holds more than a file of vectors, and must not be lost to one."""
    if not path.exists():
        return
    try:
        there = read_index(path)
    except UnusableIndex:
        return  # damaged: this import mends it
    if there.source["model"] != IMPORTED and there != index:
        raise NameTaken(f"{path}: stands there already and was not imported; give another NAME")


def _add_prompts(store: VectorStore, origin: Origin) -> None:
    keys = [text_key(prompt.text) for prompt in origin.prompts]
    vectors = np.array([prompt.vector for prompt in origin.prompts], np.float32)
    _add(store, "text", keys, vectors, [prompt.tokens for prompt in origin.prompts])


def _add(store: VectorStore, kind: str, keys: Sequence[str], vectors: np.ndarray, tokens: Sequence[int]) -> None:
    """Add the rows whose keys the store lacks, each key once."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    known = store.known(kind)
    rows = [row for key, row in first.items() if key not in known]
    for start in range(0, len(rows), MOST_ROWS):
        part = rows[start : start + MOST_ROWS]
        counts = np.array([tokens[row] for row in part], np.int32)
        store.add(kind, Segment([keys[row] for row in part], vectors[part], counts))
