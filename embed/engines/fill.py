"""Fill a store with vectors of one kind: prepare, encode in batches, write segments."""

from contextlib import closing
from typing import Any

from cache import VectorStore, cores
from embed.base.memory import TooLittleMemory, is_out_of_memory
from embed.engines.batches import Batches, CpuBatches, Encoding, GpuBatches, Prepare
from embed.engines.writing import BatchWriter, Filled


def fill(store: VectorStore, kind: str, todo: dict[str, Any], prepare: Prepare, encoding: Encoding) -> Filled:
    """Embed {key: item} of kind "image" or "text" into `store`; `prepare` runs in threads.

    A vector with NaN or infinite numbers is a failure of its item. On Ctrl-C, or if `prepare` or the encoder fails, all
    encoded vectors are written before the exception propagates. Raises TooLittleMemory, BrokenEncoder, OSError, e.g.
    when the disk is full, and the exceptions of the encoder.
    """
    kinds = GpuBatches.of if encoding.on_gpu else CpuBatches
    batches: Batches = kinds(todo.items(), prepare, encoding)
    with BatchWriter(store, kind, len(todo)) as writer:
        try:
            with closing(batches.encoded()) as encoded:
                for batch in encoded:
                    writer.take(batch)
        except BaseException as error:
            for batch in batches.rest():
                writer.take(batch)
            if is_out_of_memory(error):
                raise TooLittleMemory(_too_little(kind, encoding.batch_size)) from error
            raise
    return writer.filled


def _too_little(kind: str, batch_size: int) -> str:
    return (
        f"the memory is too small for {cores()} threads with up to {batch_size} {kind}s each; use fewer processors, e.g. "
        "`taskset -c 0 make embed ...`; finished work is kept"
    )
