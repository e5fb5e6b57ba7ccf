"""Write a table of columns as CSV or Parquet, by the file's ending."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cache.exchange.columns import UnusableTable
from cache.files import write_bytes_atomically

ENDINGS = (".csv", ".parquet")


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns, sequences or arrays of N, to `path` atomically. Raises UnusableTable for another ending, and OSError."""
    if path.suffix not in ENDINGS:
        raise UnusableTable(f"{path}: expected a name that ends in {' or '.join(ENDINGS)}")
    table, stream = pa.table({name: pa.array(values) for name, values in columns.items()}), pa.BufferOutputStream()
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, stream, pyarrow.csv.WriteOptions(quoting_style="needed"))
    else:
        pq.write_table(table, stream)
    write_bytes_atomically(path, stream.getvalue().to_pybytes())
