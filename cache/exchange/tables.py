"""Write a table of columns as CSV or Parquet, by the file's ending."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cache.exchange.columns import require_suffix
from cache.files import written_atomically

_SUFFIXES = (".csv", ".parquet")


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns, sequences or arrays of N, to `path` atomically. Raises UnusableTable for another ending, and OSError."""
    require_suffix(path, _SUFFIXES)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with written_atomically(path) as file:
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(quoting_style="needed"))
        else:
            pq.write_table(table, file)
