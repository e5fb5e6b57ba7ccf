"""Opening a store of 10,000 segments, finding 1,000,000 keys, reading 1,000,000 vectors; an index's bytes a meme.

    python -m bench.store    (`make bench-store`)

Beside each figure stands a peer: opening without what is remembered (all segments hashed), a dict of hex digits, one .npy file
of the same vectors. Rows are synthetic; about 5 GB on disk.
"""

import argparse
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe, print_json, say, verdict
from cache import DatasetIndex, KeyColumn, Segment, VectorStore, read_index, write_index

_SPEC = {"model": "bench"}
_OPEN_GOAL_S = 2.0
_INDEX_GOAL = 300


def main() -> int:
    """Measure, print, and print one JSON object."""
    args = _parser().parse_args()
    machine, rng = describe(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=args.folder) as folder:
        work = Path(folder)
        keys = KeyColumn(rng.integers(0, 256, (args.rows, 32), np.uint8))
        found = _opening(work / "many", args.segments, rng) | _reading(work, keys, args.width, rng)
        found |= _index(work / "index.h5", keys)
    print("\n".join(f"{name:40}{value:>12,}" for name, value in found.items()))
    met = found["opening_s"] < _OPEN_GOAL_S and found["index_bytes_a_meme"] < _INDEX_GOAL
    print(f"goals, opening under {_OPEN_GOAL_S} s and an index under {_INDEX_GOAL} bytes a meme: {verdict(met)}")
    print_json(
        {"benchmark": "store", **vars(args), "folder": str(args.folder), "machine": machine, **found, "met": met}
    )
    return 0


def _opening(root: Path, segments: int, rng: np.random.Generator) -> dict[str, Any]:
    """A store of many segments of 100 rows."""
    say(f"writing {segments:,} segments")
    store, rows = VectorStore(root, _SPEC), 100
    keys = KeyColumn(rng.integers(0, 256, (segments * rows, 32), np.uint8))
    vectors = rng.random((rows, 64), np.float32)
    with store.locked(lambda: None):
        for start in range(0, len(keys), rows):
            vectors[0, 0] = start
            store.add("text", Segment(keys[start : start + rows], vectors, np.zeros(rows, np.int32)))
    probe = keys[:1]

    def opened() -> None:
        assert VectorStore(root, _SPEC).has("text", probe).all()

    fast = min(_seconds(opened) for _ in range(3))
    bytes_of = _held(lambda: _looked_up(VectorStore(root, _SPEC), probe))
    (store.folder / "headers.h5").unlink()
    return {
        "segments": segments,
        "opening_s": round(fast, 2),
        "opening_hashed_s": round(_seconds(opened), 2),
        "store_bytes_a_key": round(bytes_of / len(keys)),
    }


def _looked_up(store: VectorStore, keys: KeyColumn) -> VectorStore:
    assert store.has("text", keys).all()
    return store


def _reading(work: Path, keys: KeyColumn, width: int, rng: np.random.Generator) -> dict[str, Any]:
    """Vectors over 100 segments, read in another order than they were written in."""
    say(f"writing {len(keys):,} vectors")
    store, part = VectorStore(work / "large", _SPEC), -(-len(keys) // 100)
    plain = np.lib.format.open_memmap(work / "plain.npy", "w+", np.float32, (len(keys), width))
    with store.locked(lambda: None):
        for start in range(0, len(keys), part):
            block = rng.random((len(keys[start : start + part]), width), np.float32)
            plain[start : start + part] = block
            store.add("image", Segment(keys[start : start + part], block, np.zeros(len(block), np.int32)))
    del plain
    order = rng.permutation(len(keys))
    wanted = keys.take(order)
    store.has("image", wanted[:1])
    say("looking up and reading")
    return {
        "keys": len(keys),
        "lookup_s": round(min(_seconds(lambda: store.has("image", wanted)) for _ in range(3)), 2),
        "lookup_in_dict_s": round(_in_dict(keys, wanted), 2),
        "read_s": round(min(_seconds(lambda: store.read("image", wanted)) for _ in range(2)), 2),
        "read_npy_s": round(min(_seconds(lambda: np.load(work / "plain.npy")[order]) for _ in range(2)), 2),
    }


def _in_dict(keys: KeyColumn, wanted: KeyColumn) -> float:
    rows, digits = {key: row for row, key in enumerate(keys)}, list(wanted)
    return min(_seconds(lambda: [rows[key] for key in digits]) for _ in range(3))


def _index(path: Path, keys: KeyColumn) -> dict[str, Any]:
    """An index with texts of 106 characters, whose bytes are left out of the first figure."""
    say("writing and reading an index")
    count = len(keys)
    names = [f"images/{row:08}.png" for row in range(count)]
    blank, zeros = [""] * count, [0] * count
    index = DatasetIndex(
        ids=names, splits=["train"] * count, labels=zeros, images=names, texts=[f"{row:0106}" for row in range(count)],
        image_keys=keys, text_keys=keys, skipped=blank, text_tokens=zeros, text_cut=zeros,
        image_stamps=[f"235000 1764460800123456789 1764460800123456789 {row:08}" for row in range(count)],
        spec=_SPEC, source={"data": "bench", "model": "bench", "pretrained": ""},
    )  # fmt: skip
    write_s = _seconds(lambda: write_index(path, index))
    read_s = _seconds(lambda: read_index(path))
    held = _held(lambda: read_index(path))
    return {
        "index_bytes_a_meme": round(held / count - 106),
        "index_file_bytes_a_meme": round(path.stat().st_size / count),
        "index_write_s": round(write_s, 2),
        "index_read_s": round(read_s, 2),
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _held(work: Callable[[], Any]) -> int:
    """The bytes that Python and numpy hold for the result of `work`."""
    gc.collect()
    tracemalloc.start()
    result = work()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return held


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.store", description="Opening, finding, reading.")
    parser.add_argument("--segments", type=int, default=10_000, help="to open (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="to find and to read (default: %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="of the vectors (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for the files, which are removed (default: the temporary one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
