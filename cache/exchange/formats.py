"""Read and write vectors with ids, labels and splits as one .npz or .parquet file.

    ids, image (N, Di), text (N, Dt), label, split                    required columns
    group, part                                                       optional columns
    image_key, text_key, text_tokens, text_cut; spec, source, prompts also in files that `export` wrote

Nothing is unpickled. Vectors are written and read in pieces.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.columns import KeyColumn
from cache.exchange import columns
from cache.exchange.columns import UnusableTable
from cache.exchange.npz import read_npz, write_npz
from cache.exchange.parquet import read_parquet, write_parquet
from cache.exchange.vectors import VectorColumn
from cache.store.spec import Spec

SUFFIXES = (".npz", ".parquet")
_VECTORS = ("image", "text")
_REQUIRED = ("ids", *_VECTORS, "label", "split")
_OPTIONAL = ("group", "part")
_EXPORTED = ("image_key", "text_key", "text_tokens", "text_cut")
_TEXTS = ("spec", "source", "prompts", "content_sha256")


@dataclass(frozen=True)
class Prompt:
    """A zero-shot prompt of an index; vector: Dt numbers, whose JSON form round-trips to float32 bit for bit."""

    label: str
    text: str
    tokens: int
    vector: list[float]


@dataclass(frozen=True)
class Provenance:
    """Keys, token counts and spec of vectors that this project made; sequences of N, as in a dataset index."""

    image_keys: Sequence[str]
    text_keys: Sequence[str]
    text_tokens: Sequence[int]
    text_cut: Sequence[int]
    spec: Spec
    source: dict[str, str]
    prompts: Sequence[Prompt] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Memes with vectors. ids, splits: N texts; image (N, Di), text (N, Dt); labels: N of 1 | 0 | -1.

    provenance: None for another program's vectors; groups: N texts, "" where unknown; parts: as in the index, () if unknown.
    """

    ids: Sequence[str]
    image: VectorColumn
    text: VectorColumn
    labels: Sequence[int]
    splits: Sequence[str]
    groups: Sequence[str]
    provenance: Provenance | None
    parts: Sequence[int] = ()


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows with a provenance, atomically. Raises UnusableTable for another suffix, and OSError."""
    columns.require_suffix(path, SUFFIXES)
    provenance = rows.provenance
    assert provenance is not None  # only `export` writes, and its rows come from the cache
    held = {
        "ids": rows.ids,
        "image": rows.image,
        "text": rows.text,
        "label": np.asarray(rows.labels, np.int8),
        "split": rows.splits,
        "image_key": provenance.image_keys,
        "text_key": provenance.text_keys,
        "text_tokens": np.asarray(provenance.text_tokens, np.int32),
        "text_cut": np.asarray(provenance.text_cut, np.int8),
    }
    if any(rows.groups):
        held["group"] = rows.groups
    if any(part >= 0 for part in rows.parts):
        held["part"] = np.asarray(rows.parts, np.int8)
    texts = {
        "spec": json.dumps(provenance.spec),
        "source": json.dumps(provenance.source),
        "content_sha256": _digest(rows, provenance),
    }
    if provenance.prompts:
        texts["prompts"] = json.dumps([asdict(prompt) for prompt in provenance.prompts])
    if path.suffix == ".parquet":
        write_parquet(path, held, texts)
    else:
        write_npz(path, held | texts)


def read_rows(path: Path) -> Rows:
    """Read and check a file; vectors made elsewhere are checked while they are read. Raises UnusableTable, naming file, column
    and row, and OSError."""
    columns.require_suffix(path, SUFFIXES)
    names = ("id", *_REQUIRED, *_OPTIONAL, *_EXPORTED)
    held, texts = read_parquet(path, names, _VECTORS) if path.suffix == ".parquet" else _read_npz(path, names)
    if "id" in held:
        held.setdefault("ids", held["id"])
    for name in _REQUIRED:
        if name not in held:
            raise UnusableTable(f"{path}: column {name}: missing; expected {', '.join(_REQUIRED)}")
    columns.same_lengths(path, {name: held[name] for name in (*_REQUIRED, *_OPTIONAL) if name in held})
    rows = Rows(
        columns.ids(path, "ids", held["ids"]),
        held["image"],
        held["text"],
        columns.labels(path, "label", held["label"]),
        columns.splits(path, "split", held["split"]),
        columns.groups(held.get("group", [""] * len(held["ids"]))),
        _provenance(path, held, texts),
        columns.parts(path, "part", held.get("part", ())),
    )
    if rows.provenance and _digest(rows, rows.provenance) != texts.get("content_sha256"):
        raise _changed(path)
    return rows


def _provenance(path: Path, held: dict[str, Any], texts: dict[str, str]) -> Provenance | None:
    if "spec" not in texts:
        return None
    try:
        columns.same_lengths(path, {name: held[name] for name in ("ids", *_EXPORTED)})
        image_keys, text_keys = (KeyColumn.of(map(str, held[name])) for name in _EXPORTED[:2])
        tokens, cut = ([int(value) for value in held[name]] for name in _EXPORTED[2:])
        prompts = [Prompt(**prompt) for prompt in json.loads(texts.get("prompts", "[]"))]
        spec, source = json.loads(texts["spec"]), json.loads(texts["source"])
        return Provenance(image_keys, text_keys, tokens, cut, spec, source, prompts)
    except (KeyError, ValueError, TypeError) as error:
        raise _changed(path) from error


def _changed(path: Path) -> UnusableTable:
    return UnusableTable(
        f"{path}: its vectors, keys, prompts or spec are not the ones that `export` wrote, so they cannot be imported "
        "under that spec; remove `spec` from the file to import them as another program's vectors"
    )


def _digest(rows: Rows, provenance: Provenance) -> str:
    """SHA-256 of spec, keys, vectors, token counts and prompts; the other columns may be edited."""
    names = (provenance.spec, provenance.source, list(provenance.image_keys), list(provenance.text_keys))
    counts = (list(map(int, provenance.text_tokens)), list(map(int, provenance.text_cut)))
    prompts = [asdict(prompt) for prompt in provenance.prompts]
    digest = hashlib.sha256(json.dumps([*names, *counts, *prompts], sort_keys=True).encode())
    for side in (rows.image, rows.text):
        digest.update(f"{side.shape}".encode())
        for piece in side.pieces():
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()


def _read_npz(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns among `names` that exist, as lists, vectors as columns; and the JSON texts."""
    arrays = read_npz(path, (*names, *_TEXTS), _VECTORS)
    texts = {name: str(arrays.pop(name)) for name in _TEXTS if name in arrays}
    for name, array in arrays.items():
        if name not in _VECTORS and not array.ndim:
            raise UnusableTable(f"{path}: column {name}: expected one value per row, got a single one")
    return {name: array if name in _VECTORS else array.tolist() for name, array in arrays.items()}, texts
