"""Verification: one flipped byte anywhere is found and reported with the command that repairs it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import DatasetIndex, Segment, VectorStore, content_key, text_key, write_index
from cache.contents import NoCache
from cache.stats import stats
from cache.verify import Finding, verify

SPEC = {"model": "m", "feature": "projected", "dtype": "float32"}
INDEX = DatasetIndex(
    ids=["a", "b", "c"],
    splits=["train", "train", "test"],
    labels=[1, 0, -1],
    images=["a.png", "b.png", "c.png"],
    texts=["a", "b", "c"],
    image_keys=[content_key(b"a"), content_key(b"b"), ""],
    text_keys=[text_key("a"), text_key("b"), text_key("c")],
    skipped=["", "", "no such file"],
    text_tokens=[3, 3, 3],
    text_cut=[0, 0, 0],
    image_stamps=["1 2 3", "1 2 4", ""],
    spec=SPEC,
    source={"data": "my memes", "model": "ViT-B-32", "pretrained": "openai"},
)
AGAIN = "make embed DATA='my memes' MODEL=ViT-B-32 PRETRAINED=openai"


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    store = VectorStore(tmp_path / "vectors", SPEC)
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    for kind, keys in (("image", INDEX.image_keys), ("text", INDEX.text_keys)):
        store.add(kind, Segment(keys[:2], vectors, np.zeros(2, np.int32), {content_key(b"x"): "cut off"}))
    write_index(tmp_path / "datasets" / "memes.h5", INDEX)
    return store


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def only(artifacts: Path) -> Finding:
    (finding,) = verify(artifacts).findings
    return finding


def test_a_whole_cache_has_no_findings_and_is_only_read(tmp_path: Path, store: VectorStore) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = verify(tmp_path)
    assert (found.stores, found.segments, found.indexes, found.findings) == (1, 2, 1, [])
    assert found.bytes == sum(path.stat().st_size for path in store.folder.glob("*.h5"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("part", range(12))
def test_a_flipped_byte_anywhere_in_a_segment_is_found(tmp_path: Path, store: VectorStore, part: int) -> None:
    path = next(store.folder.glob("text-*.h5"))
    flip(path, path.stat().st_size * part // 12)
    segment, index = verify(tmp_path).findings
    assert str(path) in segment.damage and AGAIN in segment.remedy
    assert "memes.h5: 2 text vectors are not in the store" in index.damage and AGAIN in index.remedy


def test_a_missing_segment_and_rows_that_were_never_made_are_found(tmp_path: Path, store: VectorStore) -> None:
    next(store.folder.glob("image-*.h5")).unlink()
    segment, index = verify(tmp_path).findings
    assert "missing" in segment.damage and AGAIN in segment.remedy and "2 image vectors" in index.damage
    write_index(tmp_path / "datasets" / "memes.h5", replace(INDEX, spec={"model": "another"}))
    segment, index = verify(tmp_path).findings
    assert "`make embed` with the DATA" in segment.remedy and "2 image and 2 text vectors" in index.damage


def test_prompts_whose_vectors_are_gone_are_found(tmp_path: Path, store: VectorStore) -> None:
    write_index(tmp_path / "datasets" / "memes.h5", replace(INDEX, prompts={"offensive": ["b", "a hateful meme"]}))
    assert "1 text vectors are not in the store" in only(tmp_path).damage


@pytest.mark.parametrize("where", ["spec.json", "manifest.jsonl"])
@pytest.mark.parametrize("part", range(9))
def test_a_flipped_byte_in_a_store_s_own_files_is_found(
    tmp_path: Path, store: VectorStore, where: str, part: int
) -> None:
    path = store.folder / where
    flip(path, path.stat().st_size * part // 9)
    finding = verify(tmp_path).findings[0]
    # a damaged name in the manifest is a segment that is missing
    assert where in finding.damage or "missing" in finding.damage
    assert AGAIN in finding.remedy or "compact" in finding.remedy


def test_a_flipped_line_end_in_the_manifest_is_found(tmp_path: Path, store: VectorStore) -> None:
    flip(store.folder / "manifest.jsonl", -1)
    assert "manifest.jsonl, line 2" in only(tmp_path).damage and "compact" in only(tmp_path).remedy


def test_a_segment_that_the_manifest_lost_is_no_damage(tmp_path: Path, store: VectorStore) -> None:
    (store.folder / "manifest.jsonl").unlink()
    assert not verify(tmp_path).findings


def test_a_damaged_index_is_found(tmp_path: Path, store: VectorStore) -> None:
    flip(tmp_path / "datasets" / "memes.h5", 5000)
    assert "memes.h5: damaged" in only(tmp_path).damage and "make embed" in only(tmp_path).damage


def test_what_is_no_store_is_left_out_and_no_cache_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoCache, match="make embed"):
        verify(tmp_path)
    (tmp_path / "vectors" / "notes").mkdir(parents=True)
    (tmp_path / "vectors" / ("0" * 12)).mkdir()  # a job that was stopped before its first row
    (tmp_path / "vectors" / "encoders.json").write_text("{}")
    assert verify(tmp_path).stores == 0 and not stats(tmp_path)["stores"]


def test_stats_count_stores_and_indexes(tmp_path: Path, store: VectorStore) -> None:
    counted = stats(tmp_path)
    assert counted == json.loads(json.dumps(counted))
    (row,), (index,) = counted["stores"], counted["indexes"]
    assert row["bytes"] > 0 and row | {"bytes": 0} == {
        "spec_id": store.folder.name, "model": "m", "feature": "projected", "dtype": "float32", "images": 2, "texts": 2,
        "failures": 2, "segments": 2, "bytes": 0, "damaged": 0,
    }  # fmt: skip
    assert (index["rows"], index["skipped"], index["splits"]) == (3, 1, {"train": 2, "test": 1})


def test_stats_say_what_cannot_be_read(tmp_path: Path, store: VectorStore) -> None:
    flip(next(store.folder.glob("text-*.h5")), 700)
    assert (stats(tmp_path)["stores"][0]["damaged"], stats(tmp_path)["stores"][0]["texts"]) == (1, 0)
    (store.folder / "spec.json").write_text("{")
    (tmp_path / "datasets" / "memes.h5").write_bytes(b"no index")
    counted = stats(tmp_path)
    assert "spec.json" in counted["stores"][0]["problem"] and "memes.h5" in counted["indexes"][0]["problem"]
