"""Import vectors from a .npz or .parquet file into a store and a new dataset index.

    python -m cache import vectors.npz NAME     then: make tune DATA=artifacts/datasets/NAME.h5

A file that `export` wrote keeps its spec and keys. Vectors of other programs get a spec with the file's hash, so they
are never mixed with those of our encoders, and each is keyed by the hash of its own bytes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cache.columns import KeyColumn
from cache.contents import IMPORTED
from cache.exchange.formats import Provenance, Rows, read_rows
from cache.exchange.vectors import VectorColumn
from cache.index.dataset_index import DatasetIndex, UnusableIndex, read_index, write_index
from cache.index.parts import part_of
from cache.layout import Layout
from cache.store.compaction import MOST_ROWS
from cache.store.key_table import KeyTable
from cache.store.keys import content_key, file_digest, text_key
from cache.store.segments import Segment
from cache.store.vector_store import VectorStore

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class NameTaken(ValueError):
    """The name of the new index is invalid or in use."""


def import_rows(file: Path, name: str, artifacts: Path, say: Callable[[str], None]) -> Path:
    """Write the index `name` and the vectors missing from the store; return the index's path. `say` prints messages.

    Raises UnusableTable, NameTaken and OSError.
    """
    if not _NAME.fullmatch(name):
        raise NameTaken(f"{name!r}: expected a name of letters, digits, dots, - and _, without a folder")
    path = Layout(artifacts).named_index(name)
    rows = read_rows(file)
    provenance = rows.provenance or _external_provenance(file, rows)
    index = _index(rows, provenance)
    _require_free(path, index)
    store = VectorStore(Layout(artifacts).vectors, provenance.spec)
    with store.locked(lambda: say("another job is filling this cache; waiting for it")):
        if store.damaged and not rows.provenance:
            say(f"{store.folder}: {len(store.damaged)} damaged segments; their rows are restored from {file}")
            store.forget_damaged()
        _add(store, "image", provenance.image_keys, rows.image, [0] * len(rows.ids))
        _add(store, "text", provenance.text_keys, rows.text, provenance.text_tokens)
        _add_prompts(store, provenance)
    write_index(path, index)
    return path


def _external_provenance(file: Path, rows: Rows) -> Provenance:
    spec = {
        "format": 1,
        "imported": file_digest(file),
        "image_dim": rows.image.shape[1],
        "text_dim": rows.text.shape[1],
    }
    none = [0] * len(rows.ids)
    image_keys, text_keys = map(_keys, (rows.image, rows.text))
    return Provenance(
        image_keys, text_keys, none, none, spec, {"data": str(file.resolve()), "model": IMPORTED, "pretrained": ""}
    )


def _keys(column: VectorColumn) -> KeyColumn:
    """The hash of each vector's bytes. Raises UnusableTable."""
    return KeyColumn.of(content_key(row.tobytes()) for piece in column.pieces() for row in piece)


def _index(rows: Rows, provenance: Provenance) -> DatasetIndex:
    none = [""] * len(rows.ids)
    prompts: dict[str, list[str]] = {}
    for prompt in provenance.prompts:
        prompts.setdefault(prompt.label, []).append(prompt.text)
    return DatasetIndex(
        ids=rows.ids,
        splits=rows.splits,
        labels=rows.labels,
        images=none,
        texts=none,
        image_keys=provenance.image_keys,
        text_keys=provenance.text_keys,
        skipped=none,
        text_tokens=provenance.text_tokens,
        text_cut=provenance.text_cut,
        image_stamps=none,
        spec=provenance.spec,
        source=provenance.source,
        groups=rows.groups,
        parts=rows.parts or ([] if rows.provenance else _parts(rows)),
        prompts=prompts,
    )


def _parts(rows: Rows) -> list[int]:
    """Parts by the hash of the id: there are no pictures, and vectors depend on the encoder."""
    return [-1 if "validation" in rows.splits else part_of(name) for name in rows.ids]


def _require_free(path: Path, index: DatasetIndex) -> None:
    """Do not overwrite an index of the embedding job, which holds more than an exchange file. Raises NameTaken."""
    if not path.exists():
        return
    try:
        existing = read_index(path)
    except UnusableIndex:
        return  # damaged: this import replaces it
    if existing.source["model"] != IMPORTED and existing != index:
        raise NameTaken(f"{path}: already exists and was not imported; give another NAME")


def _add_prompts(store: VectorStore, provenance: Provenance) -> None:
    keys = [text_key(prompt.text) for prompt in provenance.prompts]
    vectors = np.array([prompt.vector for prompt in provenance.prompts], np.float32)
    column = VectorColumn((len(keys), 0), lambda: iter([vectors]))
    _add(store, "text", keys, column, [prompt.tokens for prompt in provenance.prompts])


def _add(store: VectorStore, kind: str, keys: Sequence[str], vectors: VectorColumn, tokens: Sequence[int]) -> None:
    """Add the rows whose keys are not in the store, each key once."""
    if not len(keys):
        return
    column, counts = KeyColumn.of(keys), np.asarray(tokens, np.int32)
    first = len(keys) - 1 - KeyTable(KeyColumn(column.raw[::-1])).rows
    wanted = np.zeros(len(keys), bool)
    wanted[first] = ~store.has(kind, column.take(first))
    start = 0
    for piece in vectors.pieces():
        rows = start + np.flatnonzero(wanted[start : start + len(piece)])
        for part in np.split(rows, range(MOST_ROWS, len(rows), MOST_ROWS)) if len(rows) else ():
            store.add(kind, Segment(column.take(part), piece[part - start], counts[part]))
        start += len(piece)
