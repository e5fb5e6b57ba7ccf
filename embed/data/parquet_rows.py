"""Read the rows of a Parquet table of memes, a few thousand at a time; used by `embed.data.tables`.

A table may be larger than memory. The server never imports this module: its image has no pyarrow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed.data.columns import Columns, fields_of

# Rows in memory at once: small even when every text is a page long.
_ROWS = 4096
_PLAIN = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_null,
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def parquet_rows(table: Path, matcher: Columns, note: Callable[[str], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number, from 1, and {field: value} of each row; only the matched columns are read.

    Raises ValueError for a file that is not Parquet or is damaged, for columns of bytes or structs, and as
    `Columns.require`.
    """
    try:
        with pq.ParquetFile(table, page_checksum_verification=True) as file:
            columns = matcher.require(tuple(file.schema_arrow.names))
            for ours, theirs in columns.items():
                whole = theirs if theirs in file.schema_arrow.names else theirs.partition(".")[0]
                _check_type(ours, whole, file.schema_arrow.field(whole).type)
            number = 0
            for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys(columns.values())), use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, fields_of(row, columns)
    except (pa.ArrowException, OSError) as error:  # Arrow reports most damage as OSError
        raise ValueError(f"not a Parquet file that can be read ({error})") from error


def _check_type(ours: str, theirs: str, kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    # a list of several groups
    if ours == "group" and any(is_list(plain) for is_list in _LISTS):
        plain = plain.value_type
    if not any(is_plain(plain) for is_plain in _PLAIN):
        raise ValueError(
            f"column {theirs} holds {kind}, expected text or numbers; a picture is given by its name, not its bytes"
            if ours == "image"
            else f"column {theirs} holds {kind}, expected text or numbers"
        )
