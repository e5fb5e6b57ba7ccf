"""Compaction: fewer files, the same rows bit for bit, and no moment at which a kill loses one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cache.store.compaction
import cache.store.vector_store
from cache import DamagedSegment, Segment, VectorStore, text_key
from cache.store import headers
from cache.store.compaction import MANY, compact, merge_small
from cache.store.lock import LOCK_FILE
from cache.verify import verify

ROOT = Path(__file__).parents[3]
SPEC = {"model": "m"}


def segment(names: list[str], seed: int = 0, failures: dict[str, str] | None = None) -> Segment:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 99, len(names)).astype(np.int32)
    vectors = rng.normal(size=(len(names), 3)).astype(np.float32)
    return Segment([text_key(name) for name in names], vectors, tokens, failures or {})


def contents(store: VectorStore) -> Any:
    """All that a store answers."""
    keys = {kind: sorted(store.known(kind)) for kind in ("image", "text")}
    vectors = {kind: store.read(kind, keys[kind]).tobytes() for kind in keys}
    failures = {kind: store.failures(kind) for kind in keys}
    return keys, vectors, failures, store.token_counts(keys["text"]).tolist(), store.damaged


def fill(root: Path) -> VectorStore:
    """Six segments: a repeated key with two vectors, a failure that lasts and one that a later row makes good."""
    store = VectorStore(root, SPEC)
    store.add("text", segment(["a", "b"], 1))
    store.add("image", segment(["p"], 2, {text_key("q"): "cut off", text_key("r"): "empty"}))
    store.add("text", segment(["b", "c"], 3))
    store.add("image", Segment([], np.empty((0, 0), np.float32), np.empty(0, np.int32), {text_key("s"): "no image"}))
    store.add("image", segment(["r", "t"], 4))
    store.add("text", segment(["d"], 5))
    return VectorStore(root, SPEC)


def files(store: VectorStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {LOCK_FILE, headers.FILE}


def test_small_segments_become_one_of_each_kind_and_nothing_else_changes(tmp_path: Path) -> None:
    before = contents(fill(tmp_path / "vectors"))
    store = VectorStore(tmp_path / "vectors", SPEC)
    done = compact(store, lambda: pytest.fail("nobody else is at it"))
    assert done.segments == (6, 2) and done.damaged == []
    assert contents(store) == contents(VectorStore(tmp_path / "vectors", SPEC)) == before
    assert {name.split("-")[0] for name in files(store)} == {"image", "text", "manifest.jsonl", "spec.json"}
    assert len(files(store)) == 4 and not verify(tmp_path).findings
    rows = [json.loads(line)["rows"] for line in (store.folder / "manifest.jsonl").read_text().splitlines()]
    assert sorted(rows) == [3, 4]  # p, r and t; a, c, d and b once


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    compact(fill(tmp_path), lambda: None)
    store = VectorStore(tmp_path, SPEC)
    before = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    assert compact(store, lambda: None).segments == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before


def test_large_segments_are_left_and_merged_ones_are_never_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.store.compaction, "MOST_ROWS", 10)
    store = VectorStore(tmp_path, SPEC)
    for number, size in enumerate((5, 4, 4, 2, 1, 3)):
        store.add("text", segment([f"{number} {row}" for row in range(size)], number))
    large = next(iter(store.held("text")))
    before = contents(store)
    compact(store, lambda: None)
    assert sorted(map(len, store.held("text").values())) == [4, 5, 10] and large in store.held("text")
    assert contents(store) == before


def test_what_is_read_of_a_repeated_key_stays_the_same_beside_a_large_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.store.compaction, "MOST_ROWS", 10)
    store = VectorStore(tmp_path, SPEC)
    for number, names in enumerate((["a", "x"], ["a", "b", "c", "d", "e"], ["b"])):
        store.add("text", segment(names, number))
    before = contents(store)
    compact(store, lambda: None)
    assert contents(store) == contents(VectorStore(tmp_path, SPEC)) == before
    assert list(map(len, store.held("text").values())) == [4, 2]  # a is read from the large one, b from the merged one
    store.add("image", segment(["p", "q"], 6))
    store.add("image", segment(["q", "r", "s", "t", "u"], 7))
    assert compact(store, lambda: None).segments == (4, 4)
    rows = [json.loads(line)["rows"] for line in (store.folder / "manifest.jsonl").read_text().splitlines()]
    assert sorted(rows) == [1, 2, 5, 5]  # q stands in one segment only, though its first was alone


def test_a_merge_that_gives_one_of_the_old_files_again_keeps_it(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, SPEC)
    store.add("text", segment(["a"], 2))
    store.add("text", segment(["a", "b"], 1))
    before = contents(store)
    assert compact(store, lambda: None).segments == (2, 1)
    assert contents(VectorStore(tmp_path, SPEC)) == before


def test_damaged_segments_are_left_alone_and_named(tmp_path: Path) -> None:
    store = fill(tmp_path)
    hurt, lost = next(iter(store.held("text"))), next(iter(store.held("image")))
    hurt.write_bytes(hurt.read_bytes()[:-1])
    lost.unlink()
    store = VectorStore(tmp_path, SPEC)
    before = contents(store)
    assert set(compact(store, lambda: None).damaged) == {hurt.name, lost.name} == set(store.damaged)
    assert hurt.exists() and contents(store) == contents(VectorStore(tmp_path, SPEC)) == before


def test_a_manifest_with_damaged_lines_is_written_again(tmp_path: Path) -> None:
    store = fill(tmp_path / "vectors")
    compact(store, lambda: None)
    manifest = store.folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-9].replace('"rows": ', '"rows": 1'))
    assert verify(tmp_path).findings
    compact(VectorStore(tmp_path / "vectors", SPEC), lambda: None)
    assert not verify(tmp_path).findings


STEPS = [
    *((cache.store.compaction, "write_segment", at) for at in (1, 2)),
    (cache.store.vector_store, "write_manifest", 1),
    *((Path, "unlink", at) for at in range(1, 7)),
    (cache.store.vector_store, "sync", 1),
]


def merge_at_the_end(store: VectorStore) -> None:
    """As the embedding job does."""
    with store.locked(lambda: pytest.fail("nobody else is at it")):
        merge_small(store, lambda message: pytest.fail(message))


@pytest.mark.parametrize("merge", [lambda store: compact(store, lambda: None), merge_at_the_end], ids=["all", "end"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "name", "at"), STEPS)
def test_a_kill_at_any_step_leaves_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int, after: bool, merge: Any
) -> None:
    monkeypatch.setattr(cache.store.compaction, "MANY", 2)
    store = fill(tmp_path)
    before = contents(store)
    real, calls = getattr(where, name), []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == at and after:
            real(*arguments, **options)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(where, name, killed)
        merge(store)
    again = VectorStore(tmp_path, SPEC)
    assert contents(again) == before
    assert compact(again, lambda: None).segments[1] == 2
    assert contents(VectorStore(tmp_path, SPEC)) == before and len(files(again)) == 4


def test_a_real_kill_leaves_every_row(tmp_path: Path) -> None:
    """SIGKILL at moments spread over a compaction; each process begins where the last one was killed."""
    code = (
        "import sys, time; from cache import VectorStore; from cache.store.compaction import compact\n"
        "store = VectorStore(sys.argv[1], {'model': 'm'}); print('go', flush=True); compact(store, lambda: None)"
    )
    store = VectorStore(tmp_path, SPEC)
    for number in range(40):
        store.add("text", segment([f"{number} {row}" for row in range(20)], number))
    before = contents(store)
    for milliseconds in (1, 4, 8, 12, 16, 24):
        with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as job:
            job.stdout.readline()
            try:
                job.wait(milliseconds / 1000)
            except subprocess.TimeoutExpired:
                job.kill()
        assert contents(VectorStore(tmp_path, SPEC)) == before
    compact(VectorStore(tmp_path, SPEC), lambda: None)
    assert contents(VectorStore(tmp_path, SPEC)) == before


def test_a_reader_that_opened_the_store_before_still_gets_its_vectors(tmp_path: Path) -> None:
    reader = fill(tmp_path)
    before = contents(VectorStore(tmp_path, SPEC))
    compact(VectorStore(tmp_path, SPEC), lambda: None)
    assert contents(reader) == before


def test_a_store_that_is_opened_while_segments_are_merged_has_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    before = contents(VectorStore(tmp_path, SPEC))
    real = cache.store.vector_store.check_segment

    def merging(path: Path) -> str:
        monkeypatch.setattr(cache.store.vector_store, "check_segment", real)
        compact(VectorStore(tmp_path, SPEC), lambda: None)
        return real(path)

    monkeypatch.setattr(cache.store.vector_store, "check_segment", merging)
    assert contents(VectorStore(tmp_path, SPEC)) == before


def test_rows_that_came_after_the_store_was_opened_are_not_lost(tmp_path: Path) -> None:
    mine, other = fill(tmp_path), VectorStore(tmp_path, SPEC)
    with other.locked(lambda: None):
        other.add("text", segment(["late"], 9))
    compact(mine, lambda: None)
    assert text_key("late") in VectorStore(tmp_path, SPEC).known("text") and len(files(mine)) == 4


def test_a_job_merges_at_its_end_once_there_are_many_small_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.store.compaction, "MOST_ROWS", 100)
    store = VectorStore(tmp_path, SPEC)
    store.add("text", segment([f"large {row}" for row in range(60)], 9))
    large = next(iter(store.held("text")))
    for number in range(MANY - 1):
        store.add("text", segment([f"{number} {row}" for row in range(10)], number))
    before = files(store)
    merge_at_the_end(store)
    assert files(store) == before
    store.add("text", segment(["last"], 99))
    rows = contents(store)
    inode = large.stat().st_ino
    merge_at_the_end(store)
    assert list(map(len, store.held("text").values())) == [60, 100, 51] and large.stat().st_ino == inode
    assert contents(store) == contents(VectorStore(tmp_path, SPEC)) == rows
    before = files(store)
    merge_at_the_end(VectorStore(tmp_path, SPEC))
    assert files(store) == before


@pytest.mark.parametrize("broken", ["disk", "segment"])
def test_a_merge_that_cannot_be_is_said_and_leaves_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(cache.store.compaction, "MANY", 2)
    store, said = fill(tmp_path), []
    before = contents(store)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device") if broken == "disk" else DamagedSegment("text: changed")

    with monkeypatch.context() as patch, store.locked(lambda: None):
        patch.setattr(cache.store.compaction, "write_segment" if broken == "disk" else "read_vectors", refuse)
        merge_small(store, said.append)
    assert len(said) == 1 and str(store.folder) in said[0] and "not merged" in said[0]
    assert contents(VectorStore(tmp_path, SPEC)) == before
