"""Vectors as one file: out and back bit for bit, in from elsewhere, and a sentence for each way to be wrong."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import (
    DatasetIndex,
    MissingVectors,
    Segment,
    VectorStore,
    content_key,
    part_of,
    read_index,
    text_key,
    write_index,
)
from cache.exchange import vectors
from cache.exchange.columns import UnusableTable
from cache.exchange.exporting import export_index
from cache.exchange.importing import NameTaken, import_rows
from cache.verify import verify

SPEC = {"model": "m", "feature": "projected"}
FORMATS = pytest.mark.parametrize("suffix", [".npz", ".parquet"])
SOURCE = {"data": "d", "model": "m", "pretrained": ""}
# Of the data set's own texts, "a" is a prompt too.
PROMPTS = {"offensive": ["a cruel meme", "a"], "non-offensive": ["a kind meme"]}


def quiet(note: str) -> None:
    pytest.fail(f"nothing to say, but: {note}")


@pytest.fixture
def index_file(tmp_path: Path) -> Path:
    """Four memes, two of one picture, one unlabelled, one without vectors; three prompts; and the store of vectors."""
    pictures, texts = [content_key(b"p"), content_key(b"p"), content_key(b"q"), ""], ["a", "ü ☃", "", "d"]
    index = DatasetIndex(
        ids=["m0", "m1 雪", "m2", "m3"],
        splits=["train", "validation", "test", "train"],
        labels=[1, 0, -1, 1],
        images=["0.png", "1.png", "2.png", "3.png"],
        texts=texts,
        image_keys=pictures,
        text_keys=[text_key(text) for text in texts],
        skipped=["", "", "", "no such file"],
        text_tokens=[3, 99, 2, 3],
        text_cut=[0, 1, 0, 0],
        image_stamps=["1 2 3"] * 4,
        spec=SPEC,
        source=SOURCE,
        groups=["women", "", "race+sex", "women"],
        prompts=PROMPTS,
    )
    rng, store = np.random.default_rng(0), VectorStore(tmp_path / "vectors", SPEC)
    image, text = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    store.add("image", Segment(pictures[1:3], image, np.zeros(2, np.int32)))
    store.add("text", Segment(index.text_keys[:3], text, np.array([3, 99, 2], np.int32)))
    prompts = [text_key("a cruel meme"), text_key("a kind meme")]
    store.add("text", Segment(prompts, rng.normal(size=(2, 4)).astype(np.float32), np.array([5, 6], np.int32)))
    path = tmp_path / "datasets" / "memes.h5"
    write_index(path, index)
    return path


def table(**changes: Any) -> dict[str, Any]:
    """Six memes with vectors made elsewhere."""
    rng = np.random.default_rng(1)
    columns = {
        "ids": np.array([f"x{row}" for row in range(6)]),
        "image": rng.normal(size=(6, 3)),
        "text": rng.normal(size=(6, 2)).astype(np.float32),
        "label": np.array([1, 0, 1, 0, -1, 1]),
        "split": np.array(["train", "train", "validation", "validation", "test", "test"]),
    } | changes
    return {name: values for name, values in columns.items() if values is not None}


def write(path: Path, columns: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        pq.write_table(pa.table({name: np.asarray(values).tolist() for name, values in columns.items()}), path)
    return path


@FORMATS
def test_parts_go_along_and_imported_memes_have_them_by_their_ids(
    tmp_path: Path, index_file: Path, suffix: str
) -> None:
    index = replace(read_index(index_file), splits=["train"] * 4)
    for parts, expected in (([3, 0, -1, 2], [3, 0, -1]), ((), [-2, -2, -2])):  # and of an index that has none
        write_index(index_file, replace(index, parts=parts))
        export_index(index_file, tmp_path / "vectors", tmp_path / f"memes{suffix}")
        there = tmp_path / f"there-{len(parts)}"
        back = read_index(import_rows(tmp_path / f"memes{suffix}", "back", there, quiet))
        assert back.parts == expected and back.has_parts == (len(parts) > 0)
    for split in ("train", "validation"):
        elsewhere = write(tmp_path / f"v{suffix}", table(split=["train"] * 5 + [split]))
        found = read_index(import_rows(elsewhere, "a", tmp_path, quiet)).parts
        assert found == ([-1] * 6 if split == "validation" else [part_of(f"x{row}") for row in range(6)])


@FORMATS
def test_out_and_back_is_bit_for_bit(tmp_path: Path, index_file: Path, suffix: str) -> None:
    out = tmp_path / f"memes{suffix}"
    assert export_index(index_file, tmp_path / "vectors", out) == 3
    first, there = read_index(index_file), tmp_path / "there"
    back = read_index(import_rows(out, "back", there, quiet))
    for name in ("ids", "splits", "labels", "image_keys", "text_keys", "text_tokens", "text_cut", "groups"):
        assert getattr(back, name) == getattr(first, name)[:3], name
    assert (back.spec, back.source, back.skipped, back.prompts) == (SPEC, SOURCE, ["", "", ""], PROMPTS)
    ours, theirs = VectorStore(tmp_path / "vectors", SPEC), VectorStore(there / "vectors", SPEC)
    for kind in ("image", "text"):
        assert ours.known(kind) == theirs.known(kind)
        keys = sorted(ours.known(kind))
        assert ours.read(kind, keys).tobytes() == theirs.read(kind, keys).tobytes()
        assert kind == "image" or ours.token_counts(keys).tolist() == theirs.token_counts(keys).tolist()
    again = tmp_path / f"again{suffix}"
    export_index(there / "datasets" / "back.h5", there / "vectors", again)
    assert again.read_bytes() == out.read_bytes() and not verify(there).findings


def test_the_exported_columns_are_what_other_programs_read(tmp_path: Path, index_file: Path) -> None:
    for suffix in (".npz", ".parquet"):
        export_index(index_file, tmp_path / "vectors", tmp_path / f"o{suffix}")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["spec"])) == SPEC and json.loads(str(arrays["source"])) == SOURCE
        assert arrays["label"].tolist() == [1, 0, -1] and arrays["ids"][1] == "m1 雪"
        image = arrays["image"]
    read = pq.read_table(tmp_path / "o.parquet")
    assert read.schema.field("image").type == pa.list_(pa.float32(), 5)
    assert np.array(read["image"].to_pylist(), np.float32).tobytes() == image.tobytes()
    assert (image[0] == image[1]).all()  # one picture in two memes
    assert json.loads(read.schema.metadata[b"spec"]) == SPEC and read["split"].to_pylist()[1] == "validation"
    assert read["group"].to_pylist() == ["women", "", "race+sex"]
    prompts = json.loads(read.schema.metadata[b"prompts"])
    assert [(prompt["label"], prompt["text"], prompt["tokens"], len(prompt["vector"])) for prompt in prompts] == [
        ("non-offensive", "a kind meme", 6, 4),
        ("offensive", "a cruel meme", 5, 4),
        ("offensive", "a", 3, 4),
    ]


def test_an_export_that_cannot_be_whole_is_refused(tmp_path: Path, index_file: Path) -> None:
    with pytest.raises(UnusableTable, match="o.csv: expected a name that ends in .npz or .parquet"):
        export_index(index_file, tmp_path / "vectors", tmp_path / "o.csv")
    write_index(index_file, replace(read_index(index_file), skipped=[""] * 4))
    with pytest.raises(MissingVectors, match="1 of 4 image vectors"):
        export_index(index_file, tmp_path / "vectors", tmp_path / "o.npz")
    write_index(index_file, replace(read_index(index_file), skipped=["gone"] * 4))
    with pytest.raises(ValueError, match="none of its 4 rows"):
        export_index(index_file, tmp_path / "vectors", tmp_path / "o.npz")
    assert not (tmp_path / "o.npz").exists()


@FORMATS
def test_without_groups_and_prompts_a_file_has_neither(tmp_path: Path, index_file: Path, suffix: str) -> None:
    write_index(index_file, replace(read_index(index_file), groups=(), prompts={}))
    export_index(index_file, tmp_path / "vectors", tmp_path / f"o{suffix}")
    if suffix == ".npz":
        names = set(np.load(tmp_path / "o.npz").files)
    else:
        schema = pq.read_schema(tmp_path / "o.parquet")
        names = {*schema.names, *map(bytes.decode, schema.metadata)}
    assert "spec" in names and not {"group", "prompts"} & names
    back = read_index(import_rows(tmp_path / f"o{suffix}", "back", tmp_path / "there", quiet))
    assert (back.groups, back.prompts) == ([""] * 3, {})


@FORMATS
@pytest.mark.parametrize(
    ("group", "read"),
    [
        (["a", " b ", "", "x" * 300, "a", "c"], ["a", "b", "", "x" * 100, "a", "c"]),
        ([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"]),
        (None, [""] * 6),
    ],
    ids=["texts", "numbers", "none"],
)
def test_vectors_made_elsewhere_may_have_groups_and_have_no_prompts(
    tmp_path: Path, suffix: str, group: list | None, read: list[str]
) -> None:
    index = read_index(import_rows(write(tmp_path / f"v{suffix}", table(group=group)), "a", tmp_path, quiet))
    assert (index.groups, index.prompts) == (read, {})


def test_cells_of_parquet_may_be_lists_or_nothing(tmp_path: Path) -> None:
    columns = {name: np.asarray(values).tolist() for name, values in table().items()}
    cells = [["sex", "race"], [], None, ["race"], ["sex"], None]
    pq.write_table(pa.table(columns | {"group": cells}), tmp_path / "v.parquet")
    groups = read_index(import_rows(tmp_path / "v.parquet", "a", tmp_path, quiet)).groups
    assert groups == ["race+sex", "", "", "race", "sex", ""]


@FORMATS
def test_vectors_made_elsewhere_are_found_by_their_index(tmp_path: Path, suffix: str) -> None:
    columns = table()
    index_file = import_rows(write(tmp_path / f"v{suffix}", columns), "theirs", tmp_path, quiet)
    assert index_file == tmp_path / "datasets" / "theirs.h5"
    index = read_index(index_file)
    store = VectorStore(tmp_path / "vectors", index.spec)
    assert index.ids == columns["ids"].tolist() and index.splits == columns["split"].tolist()
    assert index.labels == [1, 0, 1, 0, -1, 1] and not any(index.skipped)
    assert store.read("image", index.image_keys).tobytes() == columns["image"].astype(np.float32).tobytes()
    assert store.read("text", index.text_keys).tobytes() == columns["text"].tobytes()
    assert {"imported", "image_dim"} <= index.spec.keys() and not verify(tmp_path).findings


def test_another_file_is_another_spec_and_the_same_one_adds_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "v.npz", table())
    for _ in range(2):
        specs = {json.dumps(read_index(import_rows(first, "a", tmp_path, quiet)).spec)}
    other = write(tmp_path / "w.npz", table(label=[0, 1, 1, 0, 1, 1]))
    specs.add(json.dumps(read_index(import_rows(other, "b", tmp_path, quiet)).spec))
    promised = [line for path in tmp_path.glob("vectors/*/manifest.jsonl") for line in path.read_text().splitlines()]
    assert len(specs) == 2 and len(promised) == 4


def test_equal_vectors_share_a_key(tmp_path: Path) -> None:
    index = read_index(import_rows(write(tmp_path / "v.npz", table(image=np.ones((6, 3)))), "a", tmp_path, quiet))
    assert len(set(index.image_keys)) == 1 and len(set(index.text_keys)) == 6


@pytest.mark.parametrize(
    "columns",
    [
        table(ids=None, id=np.arange(6)),
        table(label=np.array(["Offensive", "non-offensive", "1", "0", "-1", "offensive"])),
        table(label=np.array([1.0, 0.0, 1.0, 0.0, -1.0, 1.0])),
        table(image=np.arange(18).reshape(6, 3)),
        table(image=np.arange(18, dtype=np.float16).reshape(6, 3), image_key=np.array(["mine"] * 6)),
    ],
    ids=["id", "words", "floats", "integers", "halves"],
)
@FORMATS
def test_other_spellings_that_are_plain_enough(tmp_path: Path, suffix: str, columns: dict[str, Any]) -> None:
    index = read_index(import_rows(write(tmp_path / f"v{suffix}", columns), "a", tmp_path, quiet))
    assert index.labels == [1, 0, 1, 0, -1, 1] and len(set(index.ids)) == 6


@FORMATS
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": None}, "column text: missing"),
        ({"ids": None}, "column ids: missing"),
        ({"ids": ["a", "b", "c", "a", "e", "f"]}, "column ids, row 3 .*'a' is also in row 0"),
        ({"ids": [0.5, 1, 2, 3, 4, 5]}, "column ids, row 0 .*whole number, got 0.5"),
        ({"ids": ["a", "", "c", "d", "e", "f"]}, "column ids, row 1 "),
        ({"label": ["1", "0", "maybe", "0", "1", "1"]}, "column label, row 2 .*got 'maybe'"),
        ({"label": [1, 0, 2, 0, 1, 1]}, "column label, row 2 .*got 2"),
        ({"split": ["train", "dev", "test", "test", "test", "test"]}, "column split, row 1 .*validation.*got 'dev'"),
        ({"image": [[1.0, 2], [3, np.nan], [5, 6], [1, 2], [3, 4], [5, 6]]}, "column image, row 1 .*NaN"),
        ({"text": [[1.0], [2], [1e300], [4], [5], [6]]}, "column text, row 2 .*too large"),
        ({"text": np.zeros((6, 0))}, "column text"),
        ({"text": np.zeros(6)}, "column text: expected"),
        ({"text": np.zeros((6, 2, 2))}, "column text: expected"),
        ({"image": [["a"]] * 6}, "column image: expected"),
    ],
)
def test_what_is_wrong_is_said_with_file_column_and_row(
    tmp_path: Path, suffix: str, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / f"v{suffix}", table(**changes))
    with pytest.raises(UnusableTable, match=f"v{suffix}: {words}"):
        import_rows(path, "a", tmp_path / "artifacts", quiet)
    assert not (tmp_path / "artifacts").exists()


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    full = pq.read_table(write(tmp_path / "full.parquet", table()))
    pq.write_table(full.slice(0, 0), tmp_path / "v.parquet")
    np.savez(tmp_path / "v.npz", **{name: values[:0] for name, values in table().items()})
    for suffix in (".parquet", ".npz"):
        with pytest.raises(UnusableTable, match=f"v{suffix}: column ids: no rows"):
            import_rows(tmp_path / f"v{suffix}", "a", tmp_path, quiet)


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    for name in ("label", "group"):
        path = write(tmp_path / "v.npz", table(**{name: np.array([1, 0])}))
        with pytest.raises(UnusableTable, match=f"v.npz: the columns differ in length .*image 6, .*{name} 2"):
            import_rows(path, "a", tmp_path, quiet)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ([[1.0, 2], [3.0], [5, 6], [1, 2], [3, 4], [5, 6]], "row 1 .*a vector of 2 numbers, got 1"),
        ([[1.0, 2], [3.0, 4], None, [1, 2], [3, 4], [5, 6]], "row 2 .*got none"),
        ([[1.0, 2], [3.0, 4], [5, 6], [1, None], [3, 4], [5, 6]], "row 3 .*a number is missing"),
    ],
)
def test_ragged_vectors_in_parquet_are_named(tmp_path: Path, image: list, words: str) -> None:
    columns = {name: np.asarray(values).tolist() for name, values in table().items()} | {"image": image}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=2)
    with pytest.raises(UnusableTable, match=f"v.parquet: column image, {words}"):
        import_rows(tmp_path / "v.parquet", "a", tmp_path, quiet)


@FORMATS
@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 and no more", b"PAR1 and no more PAR1"])
def test_what_is_no_such_file_is_said(tmp_path: Path, suffix: str, data: bytes) -> None:
    (tmp_path / f"v{suffix}").write_bytes(data)
    with pytest.raises(UnusableTable, match=f"v{suffix}: not a readable"):
        import_rows(tmp_path / f"v{suffix}", "a", tmp_path, quiet)
    with pytest.raises(FileNotFoundError, match=f"none{suffix}"):
        import_rows(tmp_path / f"none{suffix}", "a", tmp_path, quiet)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "v.npz", **table(ids=np.array([Trap()] * 6, object)))
    with pytest.raises(UnusableTable, match="plain arrays"):
        import_rows(tmp_path / "v.npz", "a", tmp_path, quiet)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.ones((3, 5), np.float32)},
        {"spec": np.array('{"model": "other"}')},
        {"text_key": np.array([text_key(name) for name in "xyz"])},
        {"text_tokens": np.array([1, 1, 1])},
        {"image_key": np.array(["a", "b"])},
        {"prompts": None},
        {"prompts": np.array('[{"label": "offensive"}]')},
        {"content_sha256": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_vectors_do_not_go_back_under_our_spec(tmp_path: Path, index_file: Path, change: dict) -> None:
    export_index(index_file, tmp_path / "vectors", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as arrays:
        changed = {name: array for name, array in (dict(arrays) | change).items() if array is not None}
    np.savez(tmp_path / "changed.npz", **changed)
    with pytest.raises(UnusableTable, match="changed.npz: .*not the ones that `export` wrote.*remove `spec`"):
        import_rows(tmp_path / "changed.npz", "a", tmp_path / "there", quiet)
    np.savez(tmp_path / "changed.npz", **{name: array for name, array in changed.items() if name != "spec"})
    assert read_index(import_rows(tmp_path / "changed.npz", "a", tmp_path / "there", quiet)).spec != SPEC


def test_labels_splits_and_groups_may_change_on_the_way(tmp_path: Path, index_file: Path) -> None:
    export_index(index_file, tmp_path / "vectors", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as arrays:
        changed = {"label": [0, 0, 1], "split": ["train"] * 3, "group": ["x", "y", "z"]}
        np.savez(tmp_path / "changed.npz", **dict(arrays) | changed)
    back = read_index(import_rows(tmp_path / "changed.npz", "relabelled", tmp_path, quiet))
    assert {"label": back.labels, "split": back.splits, "group": back.groups} == changed and back.spec == SPEC


def test_an_index_of_the_embedding_job_is_never_replaced(tmp_path: Path, index_file: Path) -> None:
    before, file = index_file.read_bytes(), write(tmp_path / "v.npz", table())
    with pytest.raises(NameTaken, match="memes.h5.*another NAME"):
        import_rows(file, "memes", tmp_path, quiet)
    assert index_file.read_bytes() == before


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b"])
def test_a_name_is_a_plain_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(NameTaken, match="expected a name"):
        import_rows(write(tmp_path / "v.npz", table()), name, tmp_path, quiet)


def test_importing_again_mends_a_damaged_store(tmp_path: Path) -> None:
    file = write(tmp_path / "v.npz", table())
    import_rows(file, "a", tmp_path, quiet)
    for path in list((tmp_path / "vectors").glob("*/*.h5")):
        path.rename(path.with_name(f"{path.name.split('-')[0]}-{'0' * 20}.h5"))
    assert any(f"import {file} NAME" in finding.remedy for finding in verify(tmp_path).findings)
    notes: list[str] = []
    import_rows(file, "a", tmp_path, notes.append)
    assert "4 damaged segments" in notes[0] and not verify(tmp_path).findings


@FORMATS
def test_no_column_is_ever_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Out and in at 1.3 columns of vectors at most; pyarrow's memory is its own."""
    monkeypatch.setattr(vectors, "_LEAST_ROWS", 64)
    count, wide = 1500, 2048
    keys = [content_key(b"%d" % row) for row in range(count)]
    store = VectorStore(tmp_path / "vectors", SPEC)
    order = np.random.default_rng(0).permutation(count)  # the vectors of each piece lie in all segments
    for rows in np.array_split(order, 10):
        part, filled = [keys[row] for row in rows], np.ones((len(rows), wide), np.float32) * rows[:, None]
        for kind in ("image", "text"):
            store.add(kind, Segment(part, filled, np.zeros(len(rows), np.int32)))
    names, zeros = [f"m{row}" for row in range(count)], [0] * count
    columns = {name: [""] * count for name in ("images", "texts", "skipped", "image_stamps")}
    index = DatasetIndex(
        ids=names, splits=["train"] * count, labels=zeros, image_keys=keys, text_keys=keys, text_tokens=zeros,
        text_cut=zeros, spec=SPEC, source=SOURCE, **columns,
    )  # fmt: skip
    write_index(tmp_path / "index.h5", index)
    out = tmp_path / f"memes{suffix}"
    exported = most_memory(lambda: export_index(tmp_path / "index.h5", tmp_path / "vectors", out))
    imported = most_memory(lambda: import_rows(out, "back", tmp_path / "there", quiet))
    column = count * wide * 4
    assert max(exported, imported) <= 1.3 * column
    there = VectorStore(tmp_path / "there" / "vectors", SPEC)
    assert (there.read("text", keys) == np.arange(count, dtype=np.float32)[:, None]).all()


def most_memory(work: Callable[[], Any]) -> int:
    """Bytes that Python, numpy and pyarrow hold at once during `work`, at most."""
    tracemalloc.start()
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak + pool.max_memory() - before


@pytest.mark.parametrize("options", [{}, {"compressed": True}, {"order": "F"}, {"dtype": ">f4"}], ids=str)
def test_arrays_of_numpy_in_other_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    monkeypatch.setattr(vectors, "_LEAST_ROWS", 2)
    columns = table()
    image = np.asarray(columns["image"], options.get("dtype", "<f4"), order=options.get("order", "C"))
    save = np.savez_compressed if "compressed" in options else np.savez
    save(tmp_path / "v.npz", **columns | {"image": image})
    index = read_index(import_rows(tmp_path / "v.npz", "a", tmp_path, quiet))
    read = VectorStore(tmp_path / "vectors", index.spec).read("image", index.image_keys)
    assert read.tobytes() == columns["image"].astype(np.float32).tobytes()


def test_damage_in_the_middle_of_a_column_is_said_before_anything_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "v.npz", table())
    data = path.read_bytes()
    at = data.index(np.ascontiguousarray(table()["text"]).tobytes()) + 9
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(UnusableTable, match=r"v.npz: not a readable .*CRC"):
        import_rows(path, "a", tmp_path / "there", quiet)
    assert not (tmp_path / "there").exists()
