"""The dataset index: round trip, replacement, paths, and words for what is not one."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache import DatasetIndex, UnusableIndex, find_index, index_path, read_index, write_index

INDEX = DatasetIndex(
    ids=["a.png", "b.png"],
    splits=["train", "test"],
    labels=[1, -1],
    images=["img/a.png", "b.png"],
    texts=["snow ☃ 雪 🤷", ""],
    image_keys=["0" * 64, ""],
    text_keys=["1" * 64, "2" * 64],
    skipped=["", "no such file"],
    spec={"model": "m", "preprocess": {"mean": [0.5]}},
    source={"data": "d", "model": "m", "pretrained": ""},
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "index.h5"
    write_index(path, INDEX)
    assert read_index(path) == INDEX
    write_index(path, replace(INDEX, ids=["c", "d"]))
    assert read_index(path).ids == ["c", "d"]
    assert [p.name for p in path.parent.iterdir()] == ["index.h5"]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        replace(INDEX, ids=["only one"])


def test_what_is_no_index_is_said_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UnusableIndex, match="make embed"):
        read_index(tmp_path / "none.h5")
    write_index(tmp_path / "datasets" / "there.h5", INDEX)
    with pytest.raises(UnusableIndex, match="no such dataset index.*there.h5"):
        find_index(tmp_path, "memes", "m", "")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UnusableIndex, match="not a dataset index"):
        read_index(tmp_path / "text.h5")


def test_an_index_is_found_by_what_made_it_or_by_its_own_name(tmp_path: Path) -> None:
    path = index_path(tmp_path, "memes", "m", "")
    write_index(path, INDEX)
    assert find_index(tmp_path, "memes", "m", "") == find_index(tmp_path, str(path), "another", "") == path


def test_the_path_tells_folders_and_checkpoints_of_one_name_apart(tmp_path: Path) -> None:
    paths = {
        index_path(tmp_path, data, model, pretrained)
        for data in ("/a/memes", "/b/memes")
        for model, pretrained in (("ViT-B-32", "openai"), ("ViT-B-32", "laion"), ("local-dir:x", ""))
    }
    assert len(paths) == 6
    assert index_path(tmp_path, "/a/memes/", "m", "") == index_path(tmp_path, "/a/memes", "m", "")
