"""Write the vectors, labels and splits of a dataset index as one .npz or .parquet file.

    python -m cache export artifacts/datasets/<index>.h5 memes.parquet

Rows that the embedding job skipped have no vectors and are left out; unlabelled ones are kept.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cache.columns import KeyColumn
from cache.exchange.columns import require_suffix
from cache.exchange.formats import SUFFIXES, Prompt, Provenance, Rows, write_rows
from cache.exchange.vectors import VectorColumn, piece_rows
from cache.index.dataset_index import DatasetIndex, read_index
from cache.store.keys import text_key
from cache.store.vector_store import VectorStore


def export_index(index_file: Path, vectors: Path, out: Path) -> int:
    """Write `out` atomically; return its number of rows.

    Raises UnusableIndex, UnusableTable, MissingVectors, OSError; ValueError if no row has vectors.
    """
    require_suffix(out, SUFFIXES)
    index = read_index(index_file)
    rows = np.array([not reason for reason in index.skipped])
    if not rows.any():
        raise ValueError(f"{index_file}: none of its {len(index)} rows has vectors")

    def kept(column: str) -> Any:
        return getattr(index, column).take(rows)

    store = VectorStore(vectors, index.spec)
    columns = {name: kept(name) for name in ("image_keys", "text_keys", "text_tokens", "text_cut")}
    image, text = (_column(store, kind, columns[f"{kind}_keys"]) for kind in ("image", "text"))
    provenance = Provenance(**columns, spec=index.spec, source=index.source, prompts=_prompts(index, store))
    write_rows(
        out, Rows(kept("ids"), image, text, kept("labels"), kept("splits"), kept("groups"), provenance, kept("parts"))
    )
    return int(rows.sum())


def _column(store: VectorStore, kind: str, keys: KeyColumn) -> VectorColumn:
    """The vectors of keys. Raises MissingVectors."""
    store.require(kind, keys)
    step = piece_rows(len(keys))
    starts = range(0, len(keys), step)
    width = store.read(kind, keys[:1]).shape[1]
    return VectorColumn((len(keys), width), lambda: (store.read(kind, keys[start : start + step]) for start in starts))


def _prompts(index: DatasetIndex, store: VectorStore) -> list[Prompt]:
    named = [(label, text) for label, texts in index.prompts.items() for text in texts]
    keys = [text_key(text) for _, text in named]
    numbers = zip(store.token_counts(keys).tolist(), store.read("text", keys).tolist())
    return [Prompt(*label_and_text, *number) for label_and_text, number in zip(named, numbers, strict=True)]
