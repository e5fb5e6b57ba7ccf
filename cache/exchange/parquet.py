"""Exchange files as Parquet: vectors as fixed_size_list<float32>, JSON texts in the schema metadata.

The only module of this room that imports pyarrow; `import cache` does not import it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.exchange.columns import UnusableTable, cell_error


def parquet_bytes(columns: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """The bytes of a Parquet file. columns: sequences of N, or (N, D) float32 arrays."""
    arrays = {name: _array(values) for name, values in columns.items()}
    stream = pa.BufferOutputStream()
    # Vectors and hashes do not compress.
    table = pa.table(arrays).replace_schema_metadata(metadata)
    pq.write_table(table, stream, compression="none", use_dictionary=False, write_page_checksum=True)
    return stream.getvalue().to_pybytes()


def read_parquet(path: Path, names: tuple[str, ...], vectors: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns among `names` that exist, as lists, those in `vectors` as (N, D) arrays; and the schema's texts.

    Raises UnusableTable, and FileNotFoundError.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            present = [name for name in file.schema_arrow.names if name in names]
            table = file.read(columns=present)
        texts = {name.decode(): text.decode() for name, text in (table.schema.metadata or {}).items()}
        lists = {name: table[name].to_pylist() for name in present if name not in vectors}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # Arrow reports most damage as OSError
        raise UnusableTable(f"{path}: not a readable Parquet file ({error})") from error
    arrays = {name: _matrix(path, name, table[name]) for name in present if name in vectors}
    return lists | arrays, texts


def _array(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values)


def _matrix(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists as (N, D). Raises UnusableTable, naming the row."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_floating, pa.types.is_integer)
    if not any(kind(column.type) for kind in kinds) or not any(kind(column.type.value_type) for kind in numbers):
        raise UnusableTable(f"{path}: column {name}: expected a list of numbers in each row, got {column.type}")
    lengths = pc.list_value_length(column).to_pylist()  # None for null
    for row, length in enumerate(lengths):
        if not length or length != lengths[0]:
            raise cell_error(
                path, name, row, f"expected a vector of {lengths[0] or 'some'} numbers, got {length or 'none'}"
            )
    values = pc.list_flatten(column)
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise cell_error(path, name, place // lengths[0], "a number is missing")
    return values.to_numpy().reshape(len(lengths), lengths[0] if lengths else 1)
