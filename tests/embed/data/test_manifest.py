"""Data sets as manifests: Parquet as CSV and JSON lines, and pictures in the folder that IMAGES says."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeEncoder, picture

import embed.clip.encoder
import embed.data.parquet_rows
from cache import read_index
from embed.__main__ import main
from embed.base.errors import DatasetError
from embed.data.choices import Choices
from embed.data.dataset import read_dataset
from embed.data.labels import UNLABELLED
from embed.data.understood import Understood
from embed.pictures.locate import pictures_root
from embed.plan.settings import EmbedSettings

ROWS = [
    {"image": "a.png", "text": "one", "label": "offensive", "split": "train"},
    {"image": "b.png", "text": "", "label": "0", "split": "dev"},
    {"image": "c.png", "text": "ünï", "label": "1", "split": "test"},
]


def as_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def as_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


FORMATS = {"csv": as_csv, "jsonl": as_json_lines, "parquet": as_parquet}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of pictures, a.png to c.png."""
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate("abc"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(picture(seed))
    return tmp_path / "pictures"


def problems(table: Path, images: str = "") -> list[str]:
    return [meme.problem for meme in read_dataset(table, Choices(images))[1]]


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"image": ["a.png"], "text": ["t"], "label": [1]} | columns), folder / "memes.parquet")
    return folder / "memes.parquet"


@pytest.mark.parametrize("as_folder", [True, False])
def test_parquet_reads_as_the_same_rows_in_csv(folder: Path, as_folder: bool) -> None:
    expected = read_dataset(as_csv(folder / "memes.csv", ROWS))[1]
    (folder / "memes.csv").unlink()
    table = as_parquet(folder / "memes.parquet", ROWS)
    root, found = read_dataset(folder if as_folder else table)
    assert root == folder and [meme.where for meme in found] == [f"memes.parquet, row {n}" for n in (1, 2, 3)]
    assert [(m.id, m.image, m.text, m.label, m.split, m.problem) for m in found] == [
        (m.id, m.image, m.text, m.label, m.split, m.problem) for m in expected
    ]


def test_one_of_two_tables_of_a_name_is_read(folder: Path) -> None:
    as_parquet(folder / "memes.parquet", ROWS)
    as_csv(folder / "memes.csv", ROWS[:1])
    understood = Understood()
    assert len(read_dataset(folder, understood=understood)[1]) == 1
    assert understood.left_out == {"memes.parquet": "the same name as memes.csv, which is read"}


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (pa.array([1, 0, None]), [1, 0, UNLABELLED]),
        (pa.array([1.0, None, 0.0]), [1, UNLABELLED, 0]),
        (pa.array([True, False, None]), [1, 0, UNLABELLED]),
        (pa.array(["hateful", "not-hateful", None]), [1, 0, UNLABELLED]),
        (pa.array(["1", "0", "1"]).dictionary_encode(), [1, 0, 1]),
        (pa.array(["1", "0", "1"], pa.large_string()), [1, 0, 1]),
    ],
)
def test_labels_of_every_type(folder: Path, labels: pa.Array, read: list[int]) -> None:
    names = [f"{name}.png" for name in "abc"]
    table = parquet(folder, image=names, text=["x", "y", "z"], label=labels)
    assert [meme.label for meme in read_dataset(table)[1]] == read


@pytest.mark.parametrize(
    ("write", "name"), [(as_json_lines, "class"), (as_parquet, "Class"), (as_parquet, "Is offensive?")]
)
def test_the_label_may_have_another_name(folder: Path, write: Callable[..., Path], name: str) -> None:
    row = {"image": "a.png", "text": "t", name: 1}
    table = write(folder / f"memes.{'jsonl' if write is as_json_lines else 'parquet'}", [row])
    assert [meme.label for meme in read_dataset(table)[1]] == [1]


def test_ids_and_groups_of_parquet(folder: Path) -> None:
    names = [f"{name}.png" for name in "abc"]
    groups = pa.array([["sex", "race"], [], None])
    table = parquet(folder, image=names, text=["", "", None], label=[1, 0, 1], id=[7, None, 9], group=groups)
    found = read_dataset(table)[1]
    assert [meme.id for meme in found] == ["7", "b.png", "9"] and [m.group for m in found] == ["race+sex", "", ""]


def test_a_table_is_read_in_batches_of_the_wanted_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, list[str]]] = []
    read = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, rows: int, columns: list[str], **more: Any) -> Any:
        asked.append((rows, columns))
        return read(self, rows, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    monkeypatch.setattr(embed.data.parquet_rows, "_ROWS", 10)
    count = 25
    table = parquet(
        folder,
        image=["a.png"] * count,
        text=[str(n) for n in range(count)],
        label=[1] * count,
        pixels=pa.array([{"bytes": b"x"}] * count),
    )
    found = read_dataset(table)[1]
    del asked[0]  # of the first row, from which the columns are known
    assert [meme.text for meme in found] == [str(n) for n in range(count)]
    assert found[-1].where == "memes.parquet, row 25" and asked == [(10, ["image", "text", "label"])]


@pytest.mark.parametrize(
    ("columns", "row_error"),
    [
        ({"image": pa.array([b"\x89PNG"])}, "column image holds binary, expected text or numbers; a picture is given"),
        ({"image": pa.array([{"bytes": b"x", "path": "a.png"}])}, "column image holds struct<"),
        ({"text": pa.array([["t"]])}, "column text holds list<"),
        ({"label": pa.array([{"a": 1}])}, "column label holds struct<"),
        ({"group": pa.array([[["deep"]]])}, "column group holds list<"),
        ({"Text": ["t"]}, "two columns are called text"),
        ({"label": [7]}, "memes.parquet, row 1: unknown label 7"),
        ({"image": pa.array([None], pa.string())}, "memes.parquet, row 1: no image name"),
    ],
)
def test_odd_columns_are_a_sentence(folder: Path, columns: dict[str, Any], row_error: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_dataset(parquet(folder, **columns))
    assert row_error in str(caught.value) and str(caught.value).startswith((str(folder), "memes.parquet"))


def test_what_is_no_parquet_or_lacks_a_column_is_a_sentence(folder: Path) -> None:
    table = folder / "memes.parquet"
    table.write_bytes(b"image,text,label\n")
    with pytest.raises(DatasetError, match="not a Parquet file that can be read"):
        read_dataset(table)
    pq.write_table(pa.table({"image": ["a.png"]}), table)
    with pytest.raises(
        DatasetError, match=r"none of the 1 rows has a label: looked for a column called label, .*; columns: image\."
    ):
        read_dataset(table)
    pq.write_table(pa.table({"image": ["a.png"], "text": pa.array([b"\xff"]).cast(pa.string(), safe=False)}), table)
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_dataset(table)


def test_a_column_inside_a_struct_of_parquet_is_a_sentence(folder: Path) -> None:
    table = parquet(folder, media=pa.array([{"path": "a.png"}]), text=["t"], label=[1])
    with pytest.raises(DatasetError, match="column media holds struct<.*>, expected text or numbers"):
        read_dataset(table, Choices(columns="image=media.path"))


def test_every_damage_of_a_parquet_file_is_a_sentence_or_harmless(folder: Path) -> None:
    table = as_parquet(folder / "memes.parquet", [{**ROWS[0], "text": str(n)} for n in range(50)])
    whole = table.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        table.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_dataset(table)
        except DatasetError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_name_pictures_in_images_by_name_or_full_path(tmp_path: Path, folder: Path, kind: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "d.png").write_bytes(picture(9))
    names = ["a.png", f"{folder}/b.png", "deep/d.png", f"{folder}//deep/./d.png"]
    rows = [{"image": name, "text": str(n), "label": "1"} for n, name in enumerate(names)]
    root, found = read_dataset(FORMATS[kind](tmp_path / f"memes.{kind}", rows), Choices(str(folder)))
    assert root == folder and [meme.problem for meme in found] == [""] * 4
    assert [meme.image for meme in found] == ["a.png", "b.png", "deep/d.png", "deep/d.png"]
    assert [meme.id for meme in found] == ["a.png", "b.png", "deep/d.png", "deep/d.png#2"]


def test_images_may_be_relative_or_a_link(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(folder)
    names = [f"{folder}/a.png", f"{tmp_path}/link/b.png", "c.png"]
    rows = [{"image": name, "text": "t", "label": "1"} for name in names]
    table = as_csv(tmp_path / "memes.csv", rows)
    monkeypatch.chdir(tmp_path)
    assert problems(table, "link") == ["", "", ""]


def test_nothing_outside_images_is_read(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(8))
    (tmp_path / "pictures2").mkdir()
    (tmp_path / "pictures2" / "a.png").write_bytes(picture(8))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    expected = {
        "../secret.png": "its path leads out of IMAGES; give the file's name inside it",
        f"{folder}/../secret.png": "leads out of IMAGES",
        f"{tmp_path}/secret.png": "leads out of IMAGES",
        f"{tmp_path}/pictures2/a.png": "leads out of IMAGES",
        str(folder): "leads out of IMAGES",
        "out.png": "a link that leads out of IMAGES; put the files themselves there, or give IMAGES the folder",
        "s3://bucket/a.png": "leads out of IMAGES",
        f"file://{folder}/a.png": "leads out of IMAGES",
        "gone.png": "no such file in IMAGES",
    }
    rows = [{"image": name, "text": "t", "label": "1"} for name in expected]
    for said, reason in zip(
        problems(as_csv(tmp_path / "memes.csv", rows), str(folder)), expected.values(), strict=True
    ):
        assert reason in said


def test_without_images_full_paths_and_urls_are_refused_and_it_is_said_how(folder: Path) -> None:
    names = [f"{folder}/a.png", "s3://bucket/a.png", "https://user:pw@host/a.png"]
    table = as_csv(folder / "memes.csv", [{"image": name, "text": "t", "label": "1"} for name in names])
    assert all("IMAGES=<folder or URL>" in problem for problem in problems(table))


def test_credentials_in_a_row_are_not_kept(folder: Path) -> None:
    names = [
        "https://user:pa/ss@host/a.png",
        "https://token@host/a.png",
        "s3://KEY:se/cret@bucket/a.png",
        "https://host/a.png?X-Amz-Signature=secret&X-Amz-Credential=KEY",
    ]
    table = as_csv(folder / "memes.csv", [{"image": name, "text": "t", "label": "1"} for name in names])
    for meme in read_dataset(table)[1]:
        assert meme.problem and "***" in meme.image
        assert not any(word in f"{meme}" for word in ("pa/ss", "token", "KEY", "cret", "secret"))


@pytest.mark.parametrize(
    ("images", "row_error"),
    [
        ("nowhere", "IMAGES=nowhere: no such folder"),
        ("simplecache::s3://bucket/memes", "a chain of URLs"),
        ("gopherx://host/memes", "not a place that fsspec can read"),
        ("s3://", "expected a folder, or a URL such as"),
        ("file:///pictures", "expected a folder, or a URL such as"),
        ("http://[bad", "IPv6"),
        ("https://user:hush@host/memes", "credentials"),
        ("s3://AKIA:hu/sh@bucket/memes", "credentials"),
        ("https://host/memes?sig=hush", "credentials or a query"),
        # not installed here, whatever else is
        ("gs://bucket/memes", ".venv/bin/pip install -r requirements-ray.txt"),
    ],
)
def test_an_odd_root_is_a_sentence_and_exit_2(
    tmp_path: Path, images: str, row_error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = as_csv(tmp_path / "memes.csv", ROWS)
    for command in (["--data", str(table), "--model", "demo"], ["audit", str(table)]):
        assert main([*command, "--images", images, "--artifacts", str(tmp_path / "artifacts")]) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") and row_error in error
        assert not any(word in error for word in ("hush", "hu/sh", "AKIA", "Traceback"))


def test_a_table_behind_a_url_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "s3://bucket/memes.parquet"]) == 2
    assert "a table is read from this machine, its pictures from IMAGES=<URL>" in capsys.readouterr().err


def test_the_job_keeps_where_the_pictures_are(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_, **__: FakeEncoder(tmp_path / "weights"))
    rows = [{**row, "image": f"{folder}/{row['image']}"} for row in ROWS]
    table = as_parquet(tmp_path / "memes.parquet", rows)
    arguments = ["--data", str(table), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]
    assert main([*arguments, "--images", str(folder)]) == 0
    index = read_index(EmbedSettings(str(table), "fake", artifacts=tmp_path / "artifacts").index)
    assert index.images == ["a.png", "b.png", "c.png"] and index.skipped == ["", "", ""]
    assert pictures_root(index.source) == folder
