"""Rows of a Parquet table that lists memes; for `embed.data.tables`, which gives the columns their names.

It reads the wanted columns a few thousand rows at a time, so that a table may be larger than memory. What serves
never imports it: pyarrow is not in that image.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Rows in memory at once: small beside the memory of any machine, also when every text is a page long.
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


def parquet_rows(
    table: Path, columns_of: Callable[[tuple[str, ...]], dict[str, str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, from 1, and {our name: value}; columns_of: {our name: the table's} of its header.

    Raises ValueError, saying why, for what is no Parquet, is damaged, or has a column of bytes or of structures; and
    whatever `columns_of` raises.
    """
    try:
        with pq.ParquetFile(table, page_checksum_verification=True) as file:
            columns = columns_of(tuple(file.schema_arrow.names))
            for ours, theirs in columns.items():
                _check_type(ours, theirs, file.schema_arrow.field(theirs).type)
            number = 0
            for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys(columns.values())), use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {ours: row[theirs] for ours, theirs in columns.items()}
    except (pa.ArrowException, OSError) as error:  # OSError is how Arrow names most damage
        raise ValueError(f"not a Parquet file that can be read ({error})") from error


def _check_type(ours: str, theirs: str, kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    # of a meme about several groups
    if ours == "group" and any(is_list(plain) for is_list in _LISTS):
        plain = plain.value_type
    if not any(is_plain(plain) for is_plain in _PLAIN):
        raise ValueError(
            f"column {theirs} holds {kind}, expected text or numbers; a picture is given by its name, not its bytes"
            if ours == "image"
            else f"column {theirs} holds {kind}, expected text or numbers"
        )
