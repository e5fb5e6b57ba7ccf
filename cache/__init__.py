"""Vectors on disk: what made them, which exist, reading them. The only room that imports h5py and pyarrow.

Knows nothing of pictures, CLIP, labels' meaning or heads; the other rooms talk to disk through it.
"""

from cache.cores import cores, limit_threads
from cache.errors import raised_here, refuse
from cache.files import file_stamp, folder_replaced, write_bytes_atomically, write_text_atomically
from cache.index.dataset_index import (
    FEATURES,
    LONG_TEXTS,
    SPLITS,
    DatasetIndex,
    UnusableIndex,
    absolute_if_file,
    data_name,
    find_index,
    group_name,
    index_path,
    read_index,
    write_index,
)
from cache.index.parts import PARTS, PartRecord, part_of, parts_path, read_parts, write_parts
from cache.store.keys import content_key, file_digest, text_key
from cache.store.segments import KINDS, DamagedSegment, Segment
from cache.store.spec import SpecMismatch, differences, require_same_spec, spec_id
from cache.store.vector_store import MissingVectors, VectorStore

__all__ = [
    "FEATURES",
    "KINDS",
    "LONG_TEXTS",
    "PARTS",
    "SPLITS",
    "DamagedSegment",
    "DatasetIndex",
    "MissingVectors",
    "PartRecord",
    "Segment",
    "SpecMismatch",
    "UnusableIndex",
    "VectorStore",
    "absolute_if_file",
    "content_key",
    "cores",
    "data_name",
    "differences",
    "file_digest",
    "file_stamp",
    "find_index",
    "folder_replaced",
    "group_name",
    "index_path",
    "limit_threads",
    "part_of",
    "parts_path",
    "raised_here",
    "read_index",
    "read_parts",
    "refuse",
    "require_same_spec",
    "spec_id",
    "text_key",
    "write_bytes_atomically",
    "write_index",
    "write_parts",
    "write_text_atomically",
]
