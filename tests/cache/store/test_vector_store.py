"""The vector store: reads return what was added, a kill or damage costs one segment and is reported."""

import gc
import io
import json
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import (
    KeyColumn,
    MissingVectors,
    Segment,
    SpecMismatch,
    VectorStore,
    content_key,
    differences,
    spec_id,
    text_key,
)
from cache.store import vector_store
from cache.store.segments import write_segment

SPEC = {"model": "m", "preprocess": {"size": 224}}


def segment(*names: str, width: int = 3, failures: dict[str, str] | None = None) -> Segment:
    keys = [text_key(name) for name in names]
    vectors = np.array([[len(n) + i for i in range(width)] for n in names], np.float32).reshape(len(names), width)
    return Segment(keys, vectors, np.arange(len(names), dtype=np.int32), failures or {})


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    store = VectorStore(tmp_path, SPEC)
    store.add("text", segment("a", "bb", "ccc"))
    store.add("text", segment("dddd"))
    return store


def test_reads_any_order_with_repeats_from_disk(store: VectorStore, tmp_path: Path) -> None:
    again = VectorStore(tmp_path, SPEC)
    keys = [text_key(n) for n in ("dddd", "a", "ccc", "a")]
    assert again.read("text", keys)[:, 0].tolist() == [4, 1, 3, 1]
    assert again.read("text", keys).dtype == np.float32
    assert again.token_counts(keys).tolist() == [0, 0, 2, 0]
    assert again.known("text") == store.known("text") and not again.known("image")


def test_nothing_is_written_before_the_first_row(tmp_path: Path) -> None:
    VectorStore(tmp_path / "new", SPEC)
    assert not (tmp_path / "new").exists()


def test_missing_vectors_are_named(store: VectorStore) -> None:
    with pytest.raises(MissingVectors, match="1 of 2 text vectors"):
        store.read("text", [text_key("a"), text_key("never")])


def test_failures_are_rows_and_a_later_success_clears_them(store: VectorStore, tmp_path: Path) -> None:
    key = content_key(b"half a picture")
    store.add("image", Segment([], np.empty((0, 0), np.float32), np.empty(0, np.int32), {key: "cut off é"}))
    assert VectorStore(tmp_path, SPEC).failures("image") == {key: "cut off é"}
    store.add("image", Segment([key], np.ones((1, 3), np.float32), np.zeros(1, np.int32)))
    assert VectorStore(tmp_path, SPEC).failures("image") == {}


@pytest.mark.parametrize("where", [600, -5])
def test_a_flipped_byte_is_named_and_its_rows_are_made_again(store: VectorStore, tmp_path: Path, where: int) -> None:
    first = json.loads((store.folder / "manifest.jsonl").read_text().splitlines()[0])
    path = store.folder / first["segment"]
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    hurt = VectorStore(tmp_path, SPEC)
    assert hurt.damaged == [path.name]
    with pytest.raises(MissingVectors, match=path.name):
        hurt.read("text", list(store.known("text")))
    lost = store.known("text") - hurt.known("text")
    assert lost
    hurt.forget_damaged()
    hurt.add("text", segment("a", "bb", "ccc"))
    healed = VectorStore(tmp_path, SPEC)
    assert healed.damaged == [] and healed.known("text") >= lost


def test_a_missing_segment_is_not_silent(store: VectorStore, tmp_path: Path) -> None:
    path = next(store.folder.glob("text-*.h5"))
    path.unlink()
    assert VectorStore(tmp_path, SPEC).damaged == [path.name]


def test_a_kill_before_the_manifest_line_loses_nothing(store: VectorStore, tmp_path: Path) -> None:
    manifest = store.folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text(f"{lines[0]}\n{lines[1][:20]}")
    again = VectorStore(tmp_path, SPEC)
    assert again.known("text") == store.known("text") and not again.damaged


def test_a_kill_in_the_middle_of_a_manifest_line_does_not_spoil_the_next_one(
    store: VectorStore, tmp_path: Path
) -> None:
    manifest = store.folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-20])
    VectorStore(tmp_path, SPEC).add("text", segment("eeeee"))
    promised = [json.loads(line)["segment"] for line in manifest.read_text().splitlines() if line.endswith("}")]
    assert len(promised) == 2 and len(VectorStore(tmp_path, SPEC).known("text")) == 5


def test_temporary_files_of_a_killed_job_are_ignored(store: VectorStore, tmp_path: Path) -> None:
    (store.folder / ".text-0123.tmp").write_bytes(b"half")
    assert not VectorStore(tmp_path, SPEC).damaged


@pytest.mark.parametrize("line", [b"[1]", b"{}", b"\xff\xfe", b'{"segment": 5}', b"null"])
def test_a_damaged_manifest_line_is_no_loss(store: VectorStore, tmp_path: Path, line: bytes) -> None:
    manifest = store.folder / "manifest.jsonl"
    manifest.write_bytes(line + b"\n" + manifest.read_bytes())
    assert VectorStore(tmp_path, SPEC).known("text") == store.known("text")


@pytest.mark.parametrize("content", [b"", b"\xff", b"{"])
def test_a_damaged_spec_file_is_written_again(store: VectorStore, tmp_path: Path, content: bytes) -> None:
    (store.folder / "spec.json").write_bytes(content)
    assert VectorStore(tmp_path, SPEC).known("text") == store.known("text")
    assert json.loads((store.folder / "spec.json").read_text()) == SPEC


def test_a_lost_spec_file_is_written_again(store: VectorStore, tmp_path: Path) -> None:
    (store.folder / "spec.json").unlink()
    assert VectorStore(tmp_path, SPEC).known("text") == store.known("text")
    assert json.loads((store.folder / "spec.json").read_text()) == SPEC


def test_a_folder_that_is_named_like_a_segment_is_no_segment(store: VectorStore, tmp_path: Path) -> None:
    (store.folder / f"image-{'0' * 20}.h5").mkdir()
    assert not VectorStore(tmp_path, SPEC).damaged


def test_files_of_other_names_are_left_alone(store: VectorStore, tmp_path: Path) -> None:
    foreign = [store.folder / "my-notes.h5", tmp_path / "image-notes.h5"]
    for path in foreign:
        path.write_bytes(b"mine")
    line = json.dumps({"segment": "../image-notes.h5", "kind": "image", "rows": 1, "sha256": "0" * 64})
    (store.folder / "manifest.jsonl").write_text(f"{line}\n", encoding="utf-8")
    again = VectorStore(tmp_path, SPEC)
    assert not again.damaged and again.known("text") == store.known("text")
    again.forget_damaged()
    assert all(path.exists() for path in foreign)


def test_two_jobs_on_one_store_lose_no_rows(store: VectorStore, tmp_path: Path) -> None:
    other = VectorStore(tmp_path, SPEC)
    other.add("text", segment("x"))
    store.add("text", segment("y"))
    assert {text_key("x"), text_key("y")} <= VectorStore(tmp_path, SPEC).known("text")


def test_nan_is_refused(store: VectorStore) -> None:
    with pytest.raises(ValueError, match="NaN"):
        store.add("text", Segment([text_key("n")], np.full((1, 3), np.nan, np.float32), np.zeros(1, np.int32)))


def test_another_spec_is_another_folder(store: VectorStore, tmp_path: Path) -> None:
    other = VectorStore(tmp_path, {**SPEC, "model": "n"})
    assert other.folder != store.folder and not other.known("text")


def test_a_folder_made_under_another_spec_is_refused(store: VectorStore, tmp_path: Path) -> None:
    (store.folder / "spec.json").write_text(json.dumps({**SPEC, "model": "n"}))
    with pytest.raises(SpecMismatch, match="model: expected 'n', got 'm'"):
        VectorStore(tmp_path, SPEC)


def test_spec_differences_name_nested_fields() -> None:
    assert differences(SPEC, {"model": "m", "preprocess": {"size": 336}}) == ["preprocess.size: expected 224, got 336"]
    assert spec_id({"a": 1, "b": 2}) == spec_id({"b": 2, "a": 1})


def test_a_store_of_earlier_versions_is_read_unchanged(tmp_path: Path) -> None:
    """Segments and manifest as they were written before 2026-12, down to the datasets' names and types."""
    folder, vectors = tmp_path / spec_id(SPEC), np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    digests = [bytes.fromhex(text_key(name)) for name in ("a", "b")]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, rows in {
            "keys": np.frombuffer(b"".join(digests), np.uint8).reshape(2, 32),
            "vectors": vectors,
            "tokens": np.array([5, 90], np.int32),
            "failed_keys": np.frombuffer(bytes.fromhex(text_key("f")), np.uint8).reshape(1, 32),
            "failed_reasons": np.array([b"cut off"], "S200"),
        }.items():
            file.create_dataset(name, data=rows, chunks=rows.shape, maxshape=(None,) * rows.ndim, fletcher32=True)
    digest = content_key(buffer.getvalue())
    folder.mkdir()
    (folder / f"text-{digest[:20]}.h5").write_bytes(buffer.getvalue())
    line = {"segment": f"text-{digest[:20]}.h5", "kind": "text", "rows": 2, "sha256": digest}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "spec.json").write_text(json.dumps(SPEC))
    keys = [text_key("b"), text_key("a")]
    for _ in range(2):  # the second time from what is remembered
        store = VectorStore(tmp_path, SPEC)
        assert store.read("text", keys).tobytes() == vectors[::-1].tobytes()
        assert store.token_counts(keys).tolist() == [90, 5] and store.failures("text") == {text_key("f"): "cut off"}
        with store.locked(lambda: None):
            pass
    rows = Segment([text_key("a"), text_key("b")], vectors, np.array([5, 90], np.int32), {text_key("f"): "cut off"})
    assert write_segment(tmp_path, "text", rows)[1] == digest  # and written as before, bit for bit


def test_keys_are_answered_in_arrays(store: VectorStore) -> None:
    failed = text_key("f")
    store.add("text", segment("eeeee", failures={failed: "cut off", text_key("a"): "not any more"}))
    keys = KeyColumn.of([text_key("dddd"), failed, text_key("never"), "", text_key("a")])
    assert store.has("text", keys).tolist() == [True, False, False, False, True]
    assert store.failed("text", keys).tolist() == [False, True, False, False, False]
    assert list(store.keys("text")) == sorted(map(text_key, ("a", "bb", "ccc", "dddd", "eeeee")))
    assert store.read("text", keys[4:])[:, 0].tolist() == [1] and not store.has("image", keys).any()


def test_each_segment_is_read_once_and_only_where_it_is_needed(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("text", segment("eeeee", "ffffff"))
    read, real = [], vector_store.read_vectors
    monkeypatch.setattr(vector_store, "read_vectors", lambda *place: read.append(place) or real(*place))
    keys = [text_key(name) for name in ("ffffff", "ccc", "bb", "ffffff", "ccc")]
    assert store.read("text", keys)[:, 0].tolist() == [6, 3, 2, 6, 3]
    first, _, last = store.held("text")
    assert read == [(first, 1, 3), (last, 1, 2)]


def test_a_store_holds_a_key_in_under_50_bytes(tmp_path: Path) -> None:
    count, store = 4000, VectorStore(tmp_path, SPEC)
    for start in range(0, count, 100):
        keys = [content_key(b"%d" % row) for row in range(start, start + 100)]
        store.add("text", Segment(keys, np.ones((100, 1), np.float32), np.zeros(100, np.int32)))
    with store.locked(lambda: None):
        pass
    VectorStore(tmp_path, SPEC).has("text", keys)  # what is imported and cached once
    tracemalloc.start()
    opened = VectorStore(tmp_path, SPEC)
    assert opened.has("text", keys).all()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50 * count + 2500 * 40  # and some for each segment
