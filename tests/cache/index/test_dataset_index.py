"""The dataset index: round trip, replacement, paths, and words for what is not one."""

import errno
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from cache import DatasetIndex, DatasetRequest, Layout, UnusableIndex, content_key, find_index, read_index, write_index
from cache.columns import Column
from cache.hdf5 import write_checked
from cache.index.dataset_index import group_name

INDEX = DatasetIndex(
    ids=["a.png", "b.png"],
    splits=["train", "test"],
    labels=[1, -1],
    images=["img/a.png", "b.png"],
    texts=["snow ☃ 雪 🤷", ""],
    image_keys=["3" * 64, ""],
    text_keys=["1" * 64, "2" * 64],
    skipped=["", "no such file"],
    text_tokens=[90, 0],
    text_cut=[1, 0],
    image_stamps=["12 17 18", ""],
    spec={"model": "m", "preprocess": {"mean": [0.5]}},
    source={"data": "d", "model": "m", "pretrained": ""},
    groups=["religion+sex", ""],
    prompts={"offensive": ["a cruel meme 雪", "a hateful meme"], "non-offensive": ["a kind meme"]},
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "index.h5"
    write_index(path, INDEX)
    assert read_index(path) == INDEX
    write_index(path, replace(INDEX, ids=["c", "d"]))
    assert read_index(path).ids == ["c", "d"]
    assert [p.name for p in path.parent.iterdir()] == ["index.h5"]


@pytest.mark.parametrize(
    "text", ["a\nb\r\n", "nul \0 inside\0", "\ud800 lone, \udcff escaped", "\U0010ffff e\u0301", ""]
)
def test_a_text_may_hold_anything(tmp_path: Path, text: str) -> None:
    index = replace(INDEX, texts=[text, "x"], ids=["x", text], images=[text, text])
    write_index(tmp_path / "index.h5", index)
    assert read_index(tmp_path / "index.h5") == index


def test_an_index_without_rows_is_one_too(tmp_path: Path) -> None:
    empty = replace(INDEX, **{name: value[:0] for name, value in vars(INDEX).items() if isinstance(value, Column)})
    write_index(tmp_path / "index.h5", empty)
    assert read_index(tmp_path / "index.h5") == empty


def test_one_flipped_byte_anywhere_is_said(tmp_path: Path) -> None:
    path = tmp_path / "index.h5"
    write_index(path, INDEX)
    data = path.read_bytes()
    for where in range(0, len(data), 997):
        path.write_bytes(data[:where] + bytes([data[where] ^ 4]) + data[where + 1 :])
        with pytest.raises(UnusableIndex, match="index.h5: .*make embed"):
            read_index(path)


def test_an_index_of_an_older_format_is_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["format"] = 1
    write_checked(tmp_path / "newer.h5", lambda file: file.attrs.update({"format": 2, "spec": "{}", "source": "{}"}))
    for name, number in (("old.h5", 1), ("newer.h5", 2)):
        with pytest.raises(UnusableIndex, match=f"{name}: format {number}, expected 3; run `make embed` again"):
            read_index(tmp_path / name)


def test_an_index_may_be_without_groups_and_prompts(tmp_path: Path) -> None:
    plain = DatasetIndex(**{name: value for name, value in vars(INDEX).items() if name not in ("groups", "prompts")})
    assert (plain.groups, plain.prompts) == (["", ""], {})
    write_index(tmp_path / "index.h5", plain)
    assert read_index(tmp_path / "index.h5") == plain


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (None, ""),
        ("  women ", "women"),
        ("", ""),
        ([], ""),
        (["sex", " race", "sex"], "race+sex"),
        (7, "7"),
        (True, "True"),
        ("x" * 200, "x" * 100),
        ("x" * 99 + " y", "x" * 99),
    ],
)
def test_any_cell_names_a_group(cell: object, name: str) -> None:
    assert group_name(cell) == name


def test_the_file_is_ordinary_hdf5(tmp_path: Path) -> None:
    write_index(tmp_path / "index.h5", INDEX)
    with h5py.File(tmp_path / "index.h5") as file:
        assert file["labels"][:].tolist() == INDEX.labels and file["labels"].fletcher32


def test_columns_of_different_lengths_are_refused() -> None:
    for column in ({"ids": ["only one"]}, {"groups": ["only one"]}):
        with pytest.raises(ValueError, match="one length"):
            replace(INDEX, **column)


def test_what_is_no_index_is_said_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UnusableIndex, match="make embed"):
        read_index(tmp_path / "none.h5")
    write_index(tmp_path / "datasets" / "there.h5", INDEX)
    with pytest.raises(UnusableIndex, match="no such dataset index.*there.h5"):
        find_index(tmp_path, DatasetRequest("memes", "m"))
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UnusableIndex, match="not a dataset index"):
        read_index(tmp_path / "text.h5")


def test_an_index_is_found_by_what_made_it_or_by_its_own_name(tmp_path: Path) -> None:
    request = DatasetRequest("memes", "m")
    path = Layout(tmp_path).index(request)
    write_index(path, INDEX)
    assert find_index(tmp_path, request) == find_index(tmp_path, DatasetRequest(str(path), "another")) == path


def test_the_path_tells_folders_and_checkpoints_of_one_name_apart(tmp_path: Path) -> None:
    paths = {
        Layout(tmp_path).index(DatasetRequest(data, model, pretrained))
        for data in ("/a/memes", "/b/memes")
        for model, pretrained in (("ViT-B-32", "openai"), ("ViT-B-32", "laion"), ("local-dir:x", ""))
    }
    assert len(paths) == 6
    slash, none = (Layout(tmp_path).index(DatasetRequest(data, "m")) for data in ("/a/memes/", "/a/memes"))
    assert slash == none


def test_without_a_model_the_only_index_of_the_data_is_taken(tmp_path: Path) -> None:
    def made(model: str, **more: str) -> Path:
        path = Layout(tmp_path).index(DatasetRequest("d", model, "openai", **more))
        write_index(path, replace(INDEX, source={"data": "d", "model": model, "pretrained": "openai", **more}))
        return path

    def found(features: str = "projected") -> Path:
        return find_index(tmp_path, DatasetRequest("d", "", features=features))

    with pytest.raises(UnusableIndex, match="not embedded yet; `make embed DATA=d MODEL=ViT-B-32 PRETRAINED=openai`"):
        found()
    made_of_others = Layout(tmp_path).index(DatasetRequest("other/d", "ViT-B-32"))
    write_index(made_of_others, INDEX)
    write_index(Layout(tmp_path).index(DatasetRequest("d", "ViT-B-32", finetuned=True)), INDEX)
    only = made("ViT-B-32", features="pooled", long_text="chunk")
    assert found() == found("pooled") == only
    with pytest.raises(UnusableIndex, match="not embedded yet"):
        found("both")
    second = made("ViT-L-14")
    with pytest.raises(UnusableIndex) as refused:
        found()
    assert str(refused.value) == (
        "d: it was embedded with 2 models; say which: MODEL=ViT-B-32 PRETRAINED=openai FEATURES=pooled LONG_TEXT=chunk; "
        "or MODEL=ViT-L-14 PRETRAINED=openai"
    )
    assert found("pooled") == only
    assert find_index(tmp_path, DatasetRequest("d", "ViT-L-14", "openai")) == second
    with pytest.raises(UnusableIndex, match="PRETRAINED=openai .* without its MODEL"):
        find_index(tmp_path, DatasetRequest("d", "", "openai"))


def test_long_names_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    long = "x" * 250
    requests = [
        DatasetRequest(data, model, features="pooled")
        for data in (long, "memes", f"a/{long}")
        for model in ("m" * 300, "n" + "m" * 300)
    ]
    paths = [Layout(tmp_path).index(request) for request in requests]
    assert len(set(paths)) == len(paths)
    for request, path in zip(requests, paths):
        write_index(path, INDEX)
        path.with_name(f"{path.stem}.hashed.jsonl").touch()
        Layout(tmp_path).choices(request.data).touch()
        assert path in Layout(tmp_path).indexes(request)


def test_a_file_called_like_a_tag_does_not_change_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    requests = [DatasetRequest("d", "ViT-B-32", name) for name in ("openai", "./openai", "openai.pt")]
    before = [Layout(tmp_path).index(request) for request in requests]
    for name in ("openai", "openai.pt"):
        (tmp_path / name).write_bytes(b"w")
    after = [Layout(tmp_path).index(request) for request in requests]
    assert after[0] == before[0] and after[1] != before[1] and after[2] != before[2]


def test_an_index_that_cannot_be_read_now_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next run would write it again, without what only the earlier one knew."""
    path = tmp_path / "index.h5"
    write_index(path, INDEX)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="Too many open files.*index.h5"):
        read_index(path)


def test_an_index_is_small_in_memory(tmp_path: Path) -> None:
    """Under 300 bytes a meme beyond its texts, and not much more while it is read."""
    count = 2000
    keys = [content_key(b"%d" % row) for row in range(count)]
    numbers = [f"img/{row:07}.png" for row in range(count)]
    stamps = [f"123456 1764460800123456789 1764460800123456789 {row:08}" for row in range(count)]
    columns = {"ids": numbers, "images": numbers, "image_stamps": stamps, "image_keys": keys, "text_keys": keys}
    usual = {name: [value[0]] * count for name, value in vars(INDEX).items() if isinstance(value, Column)}
    write_index(tmp_path / "index.h5", replace(INDEX, **usual | columns))
    read_index(tmp_path / "index.h5")  # what is imported and cached once
    tracemalloc.start()
    index = read_index(tmp_path / "index.h5")
    held, peak = (size - index.texts.utf8.nbytes for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert len(index) == count and held < 300 * count and peak < 600 * count
