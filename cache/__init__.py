"""Vectors on disk: feature specs, stores and dataset indexes. The only room that imports h5py and pyarrow.

All other rooms read and write vectors and indexes through it. What it offers is imported at its first use, so that every
command judges its arguments, and answers Ctrl-C, at once.
"""

from typing import TYPE_CHECKING

from cache.cores import cores, limit_threads  # now: later the name would be that of the module
from cache.exports import on_first_use

if TYPE_CHECKING:
    from cache.bundles import CONFIG, LATEST, NoBundle, bundle_names, find_bundle, followed, version_folders
    from cache.columns import KeyColumn, NumberColumn, TextBuilder, TextColumn
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
    from cache.edge import Parser, announce, exit_codes, printable, run_as_command, stop_quietly
    from cache.errors import raised_here, refuse
    from cache.exchange.tables import write_table
    from cache.files import file_stamp, folder_replaced, naming, write_bytes_atomically, write_text_atomically
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
    from cache.layout import FEATURES, LONG_TEXTS, DatasetRequest, Layout, absolute_if_file, data_name, names_a_file
    from cache.store.compaction import merge_small
    from cache.store.key_table import KeyTable
    from cache.store.keys import content_key, file_digest, text_key
    from cache.store.segments import KINDS, DamagedSegment, Segment
    from cache.store.spec import SpecMismatch, differences, require_same_spec, spec_id
    from cache.store.vector_store import MissingVectors, VectorStore

__all__ = [
    "CONFIG",
    "DEMO_DATA",
    "FEATURES",
    "KINDS",
    "LATEST",
    "LONG_TEXTS",
    "NOTICE",
    "PARTS",
    "SPLITS",
    "DamagedSegment",
    "DatasetIndex",
    "DatasetRequest",
    "KeyColumn",
    "KeyTable",
    "Layout",
    "MissingVectors",
    "NoBundle",
    "NumberColumn",
    "Parser",
    "PartRecord",
    "Segment",
    "SpecMismatch",
    "TextBuilder",
    "TextColumn",
    "UnusableIndex",
    "VectorStore",
    "absolute_if_file",
    "announce",
    "bundle_names",
    "chosen_model",
    "content_key",
    "content_of",
    "cores",
    "data_name",
    "demo_notice",
    "differences",
    "exit_codes",
    "file_digest",
    "file_stamp",
    "find_bundle",
    "find_index",
    "folder_replaced",
    "followed",
    "group_name",
    "is_demo_encoder",
    "limit_threads",
    "merge_small",
    "names_a_file",
    "naming",
    "on_first_use",
    "part_of",
    "path_notice",
    "printable",
    "raised_here",
    "read_index",
    "read_parts",
    "refuse",
    "require_same_spec",
    "required_model",
    "run_as_command",
    "spec_id",
    "stop_quietly",
    "text_key",
    "version_folders",
    "write_bytes_atomically",
    "write_index",
    "write_parts",
    "write_table",
    "write_text_atomically",
]

_OFFERS = {
    "cache.bundles": "CONFIG LATEST NoBundle bundle_names find_bundle followed version_folders",
    "cache.columns": "KeyColumn NumberColumn TextBuilder TextColumn",
    "cache.demo": "DEMO_DATA NOTICE chosen_model content_of demo_notice is_demo_encoder path_notice required_model",
    "cache.edge": "Parser announce exit_codes printable run_as_command stop_quietly",
    "cache.errors": "raised_here refuse",
    "cache.exchange.tables": "write_table",
    "cache.files": "file_stamp folder_replaced naming write_bytes_atomically write_text_atomically",
    "cache.index.dataset_index": "SPLITS DatasetIndex UnusableIndex find_index group_name read_index write_index",
    "cache.index.parts": "PARTS PartRecord part_of read_parts write_parts",
    "cache.layout": "FEATURES LONG_TEXTS DatasetRequest Layout absolute_if_file data_name names_a_file",
    "cache.store.key_table": "KeyTable",
    "cache.store.compaction": "merge_small",
    "cache.store.keys": "content_key file_digest text_key",
    "cache.store.segments": "KINDS DamagedSegment Segment",
    "cache.store.spec": "SpecMismatch differences require_same_spec spec_id",
    "cache.store.vector_store": "MissingVectors VectorStore",
}
__getattr__ = on_first_use(__name__, {name: module for module, names in _OFFERS.items() for name in names.split()})
