"""Vectors on disk: feature specs, stores and dataset indexes. The only room that imports h5py and pyarrow.

All other rooms read and write vectors and indexes through it.
"""

from cache.cores import cores, limit_threads
from cache.demo import (
    DEMO_DATA,
    NOTICE,
    chosen_model,
    content_of,
    demo_notice,
    is_demo_encoder,
    path_notice,
    required_model,
)
from cache.errors import raised_here, refuse
from cache.exports import on_first_use
from cache.files import file_stamp, folder_replaced, write_bytes_atomically, write_text_atomically
from cache.index.dataset_index import (
    SPLITS,
    DatasetIndex,
    UnusableIndex,
    find_index,
    group_name,
    read_index,
    write_index,
)
from cache.index.parts import PARTS, PartRecord, part_of, read_parts, write_parts
from cache.layout import FEATURES, LONG_TEXTS, DatasetRequest, Layout, absolute_if_file, data_name
from cache.store.keys import content_key, file_digest, text_key
from cache.store.segments import KINDS, DamagedSegment, Segment
from cache.store.spec import SpecMismatch, differences, require_same_spec, spec_id
from cache.store.vector_store import MissingVectors, VectorStore

__all__ = [
    "DEMO_DATA",
    "FEATURES",
    "KINDS",
    "LONG_TEXTS",
    "NOTICE",
    "PARTS",
    "SPLITS",
    "DamagedSegment",
    "DatasetIndex",
    "DatasetRequest",
    "Layout",
    "MissingVectors",
    "PartRecord",
    "Segment",
    "SpecMismatch",
    "UnusableIndex",
    "VectorStore",
    "absolute_if_file",
    "chosen_model",
    "content_key",
    "content_of",
    "cores",
    "data_name",
    "demo_notice",
    "differences",
    "file_digest",
    "file_stamp",
    "find_index",
    "folder_replaced",
    "group_name",
    "is_demo_encoder",
    "limit_threads",
    "on_first_use",
    "part_of",
    "path_notice",
    "raised_here",
    "read_index",
    "read_parts",
    "refuse",
    "require_same_spec",
    "required_model",
    "spec_id",
    "text_key",
    "write_bytes_atomically",
    "write_index",
    "write_parts",
    "write_text_atomically",
]
