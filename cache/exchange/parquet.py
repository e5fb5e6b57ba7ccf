"""Exchange files as Parquet: vectors as fixed_size_list<float32>, JSON texts in the schema metadata.

It imports pyarrow, as `tables.py` does; `import cache` imports neither. Vectors are written and read in pieces.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.exchange import columns
from cache.exchange.columns import UnusableTable, cell_error
from cache.exchange.vectors import VectorColumn, piece_rows
from cache.files import written_atomically

# Column chunks are read in steps of so many bytes rather than whole.
_BUFFER = 1 << 20
# Row groups of a piece: pyarrow holds one in memory while it is written.
_GROUPS = 4


def write_parquet(path: Path, held: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write a file atomically. held: sequences of N, and `VectorColumn`s of N. Raises OSError."""
    vectors = {name: column for name, column in held.items() if isinstance(column, VectorColumn)}
    types = [(name, _type(values)) for name, values in held.items()]
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}  # vectors do not compress
    schema = pa.schema(types, metadata)
    with written_atomically(path) as file, pq.ParquetWriter(file, schema, **options) as writer:
        start = 0
        for pieces in zip(*(column.pieces() for column in vectors.values()), strict=True):
            rows = slice(start, start + len(pieces[0]))
            arrays = dict(zip(vectors, pieces)) | {n: values[rows] for n, values in held.items() if n not in vectors}
            table = pa.table({name: _array(arrays[name]) for name in held}, schema)
            writer.write_table(table, row_group_size=-(-len(pieces[0]) // _GROUPS))
            start = rows.stop


def read_parquet(path: Path, names: Sequence[str], vectors: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns among `names` that exist, as lists, those in `vectors` as columns; and the schema's texts.

    Raises UnusableTable, and FileNotFoundError.
    """
    with _opened(path) as file:
        present = [name for name in file.schema_arrow.names if name in names]
        table = file.read(columns=[name for name in present if name not in vectors])
        metadata = file.schema_arrow.metadata or {}
        texts = {name.decode(): text.decode() for name, text in metadata.items()}
        held: dict[str, Any] = {name: table[name].to_pylist() for name in table.column_names}
        types, rows = file.schema_arrow, file.metadata.num_rows
    return held | {n: _vectors(path, n, types.field(n).type, rows) for n in present if n in vectors}, texts


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=_BUFFER) as file:
            yield file
    except (FileNotFoundError, UnusableTable):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # Arrow reports most damage as OSError
        raise UnusableTable(f"{path}: not a readable Parquet file ({error})") from error


def _type(values: Any) -> pa.DataType:
    if isinstance(values, VectorColumn):
        return pa.list_(pa.float32(), values.shape[1])
    return _array(values[:1]).type


def _array(values: Any) -> pa.Array:
    values = np.asarray(values) if hasattr(values, "__array__") else values
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values if isinstance(values, np.ndarray) else list(values))


def _vectors(path: Path, name: str, kind: pa.DataType, rows: int) -> VectorColumn:
    """A column of lists as (N, D). Raises UnusableTable."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_floating, pa.types.is_integer)
    if not any(one(kind) for one in lists) or not any(one(kind.value_type) for one in numbers):
        raise UnusableTable(f"{path}: column {name}: expected a list of numbers in each row, got {kind}")
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    first = next(_batches(path, name, 1), None)
    width = (pc.list_value_length(first)[0].as_py() or 0) if first is not None else 1
    if first is not None and not width:
        raise cell_error(path, name, 0, "expected a vector of some numbers, got none")
    return columns.vectors(path, name, (rows, width), dtype, lambda: _pieces(path, name, piece_rows(rows), width))


def _batches(path: Path, name: str, rows: int) -> Iterator[pa.Array]:
    with _opened(path) as file:
        for batch in file.iter_batches(rows, columns=[name]):
            yield batch.column(0)


def _pieces(path: Path, name: str, rows: int, width: int) -> Iterator[np.ndarray]:
    """(M, D) each. Raises UnusableTable, naming the row."""
    start = 0
    for batch in _batches(path, name, rows):
        lengths = pc.fill_null(pc.list_value_length(batch), 0).to_numpy(zero_copy_only=False)
        if (lengths != width).any():
            row = int(np.flatnonzero(lengths != width)[0])
            got = lengths[row] or "none"
            raise cell_error(path, name, start + row, f"expected a vector of {width} numbers, got {got}")
        values = pc.list_flatten(batch)
        if values.null_count:
            place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise cell_error(path, name, start + place // width, "a number is missing")
        yield values.to_numpy(zero_copy_only=False).reshape(len(batch), width)
        start += len(batch)
