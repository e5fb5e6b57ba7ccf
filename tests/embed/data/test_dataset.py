"""Reading data sets: three layouts, every label spelling, and a sentence for whatever is wrong."""

import json
from pathlib import Path

import pytest
from fakes import memes, picture, write_multioff

from embed.base.errors import DatasetError
from embed.data.dataset import read_dataset
from embed.data.labels import parse_label


def rows(folder: Path) -> list[tuple[str, str, int, str]]:
    return [(m.id, m.text, m.label, m.split) for m in read_dataset(folder)[1]]


def table(folder: Path, text: str, name: str = "memes.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_multioff(tmp_path: Path) -> None:
    write_multioff(tmp_path, [("t.png", "c", "Non-offensive")], "Testing")
    write_multioff(tmp_path, [("v.png", "b", "Non-offensiv")], "Validation")
    write_multioff(tmp_path, [("a.png", 'a "quoted", text', "offensive")], "Training")
    (tmp_path / "Labelled Images" / ".DS_Store").write_bytes(b"mac")
    assert rows(tmp_path) == [
        ("a.png", 'a "quoted", text', 1, "train"),
        ("v.png", "b", 0, "validation"),
        ("t.png", "c", 0, "test"),
    ]
    assert read_dataset(tmp_path)[1][0].image == "Labelled Images/a.png"


def test_hateful_memes_json_lines(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "01.png").write_bytes(picture())
    lines = {"train": [(1, 1)], "dev_seen": [(2, 0)], "test_seen": [(3, None)]}
    for name, items in lines.items():
        text = "".join(
            json.dumps({"id": n, "img": "img/01.png", "text": f"t{n}"} | ({} if label is None else {"label": label}))
            + "\n\n"
            for n, label in items
        )
        (tmp_path / f"{name}.jsonl").write_text(text)
    assert rows(tmp_path) == [("1", "t1", 1, "train"), ("2", "t2", 0, "validation"), ("3", "t3", -1, "test")]


@pytest.mark.parametrize("as_file", [True, False])
def test_plain_csv_with_named_columns_and_a_split(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "x.jpg").write_bytes(picture())
    table(tmp_path, "\ufeffLabel,Caption,Filename,split\n1,hi,x.jpg,dev\nnot offensive,ho,x.jpg,train\n")
    found = rows(tmp_path / "memes.csv" if as_file else tmp_path)
    assert found == [("x.jpg", "hi", 1, "validation"), ("x.jpg#2", "ho", 0, "train")]


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("group", "women"),
        ("Subgroup", "women"),
        ("target_group", "women"),
        ("identity", "women"),
        ("protected_category", "women"),
        ("target", ""),
        ("pc", ""),
    ],
)
def test_a_column_for_groups_is_known_by_its_name(tmp_path: Path, header: str, read: str) -> None:
    table(tmp_path, f"image,text,label,{header}\nx.png,a,1, women \ny.png,b,0,\n")
    assert [meme.group for meme in read_dataset(tmp_path)[1]] == [read, ""]


@pytest.mark.parametrize(
    ("value", "group"),
    [
        ("sex", "sex"),
        (["sex", "race"], "race+sex"),
        (["pc_empty"], ""),
        (None, ""),
        (3, "3"),
        ({"a": 1}, "{'a': 1}"),
        ("\0lone \ud83d", "lone ?"),
        ("x" * 200, "x" * 100),
    ],
)
def test_groups_of_json_lines_may_be_anything(tmp_path: Path, value: object, group: str) -> None:
    rows = [{"img": "a.png", "text": "a", "gold_pc": value, "label": 1}, {"img": "b.png", "text": "b"}]
    table(tmp_path, "\n".join(map(json.dumps, rows)), "train.jsonl")
    assert [meme.group for meme in read_dataset(tmp_path)[1]] == [group, ""]


@pytest.mark.parametrize(
    ("spelling", "label"),
    [
        *((s, 1) for s in ("offensive", "Offensive ", "1", 1, "1.0", "hateful")),
        *((s, 0) for s in ("Non-offensiv", "Non-offensive", "non-offensive", "non_offensive", "0", 0, "not-hateful")),
    ],
)
def test_label_spellings(spelling: object, label: int) -> None:
    assert parse_label(spelling) == label


@pytest.mark.parametrize(
    ("text", "row_error"),
    [
        ("sentence,label\nx,1\n", "memes.csv: no column for image: one of image_name, image, img"),
        ("image_name,sentence\nx.png,a\n", "none of the 1 rows has a label: looked for a column called label, labels"),
        ("image_name,sentence,label\nx.png,a,\n", "none of the 1 rows has a label: the column label is empty"),
        ("image_name,sentence,label\nx.png,hi,1\nx.png,ho,maybe\n", "memes.csv, row 3: unknown label 'maybe'"),
        ("image_name,sentence,label\nx.png,hi\n", "memes.csv, row 2: fewer fields than the header"),
        ("image_name,sentence,label\n\n\nx.png,hi,-1\n", "memes.csv, row 4: unknown label '-1'"),
        ("image_name,sentence,label\nx.png,hi,10\n", "unknown label '10'"),
        ('image_name,sentence,label\nx.png,"hi,1\n', "row 2: fewer fields than the header has, or a quote that is not"),
        ("image_name,sentence,label,Label\nx.png,hi,1,0\n", "two columns are called label"),
        ("image_name#sentence#label\nx.png#hi#1\n", "It has: image_name#sentence#label"),
        (
            f"image_name,sentence,label\nx.png,{'x' * 1_000_001},1\n",
            "row 2: a text of 1,000,001 characters, the limit is",
        ),
        (
            'label,image_name,sentence\n1,x.png,"hi\n0,y.png,ho\n',
            "row 2: probably a quote that is not closed: it takes",
        ),
        (
            f'image_name,label,sentence\na.png,0,a\nx.png,1,"{"x" * 4_000_001}',
            "row 3: a field of more than 4,000,000 characters",
        ),
        ("image_name,sentence,label\nx.png,hi, there,1\n", "memes.csv, row 2: more fields than the header"),
        ("image_name,sentence,label\n,hi,1\n", "memes.csv, row 2: no image name"),
        ("image_name,sentence,label,split\nx.png,hi,1,later\n", "memes.csv, row 2: unknown split 'later'"),
        ("image_name,sentence,label\n", "hold no rows"),
        ("", "It has: nothing"),
    ],
)
def test_bad_tables_are_named_with_row_and_fix(tmp_path: Path, text: str, row_error: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_dataset(table(tmp_path, text))
    assert row_error in str(caught.value)


def test_bad_json_lines_are_named(tmp_path: Path) -> None:
    for text, row_error in (
        ("{", "row 1: not JSON"),
        ("[" * 100_000, "row 1: not JSON"),
        ("[1]", "row 1: not a JSON object"),
        ('{"text": "a"}', "row 1: no col"),
    ):
        with pytest.raises(DatasetError, match=row_error):
            read_dataset(table(tmp_path, text, "train.jsonl"))


def test_a_file_says_its_split_with_any_word_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(picture())
    for name in ("memes_test", "memes-train", "values-val"):
        table(tmp_path, f"image,text,label\nx.png,{name},1\n", f"{name}.CSV")
    assert [(text, split) for _, text, _, split in rows(tmp_path)] == [
        ("memes-train", "train"),
        ("values-val", "validation"),
        ("memes_test", "test"),
    ]


def test_one_of_several_tables_that_does_not_say_its_split_is_refused(tmp_path: Path) -> None:
    table(tmp_path, "image,text,label\nx.png,hi,1\n", "train.csv")
    table(tmp_path, "image,text,label\nx.png,hi,1\n", "values.csv")
    with pytest.raises(DatasetError, match="which split is values.csv.*Its tables are train.csv, values.csv"):
        read_dataset(tmp_path)


def test_a_repeat_with_the_other_label_is_said(tmp_path: Path) -> None:
    write_multioff(tmp_path, [("a.png", "hi", "1"), ("a.png", "hi", "0")])
    assert "but with the other label" in read_dataset(tmp_path)[1][1].problem


def test_no_folder_no_table_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no table"):
        read_dataset(tmp_path)
    for text, encoding in (("café ☺".encode()[:-1] + b"\xe9", ""), ("Привет, мир", "cp1251"), ("日本語", "shift_jis")):
        cells = text if isinstance(text, bytes) else text.replace(",", "").encode(encoding)
        (tmp_path / "memes.csv").write_bytes(b"image,text,label\nx.png,a,1\nx.png," + cells + b",1\n")
        with pytest.raises(DatasetError, match="not UTF-8 in row 3"):
            read_dataset(tmp_path)


def test_rows_that_cannot_be_used_are_kept_with_a_reason(tmp_path: Path) -> None:
    (tmp_path.parent / "outside.png").write_bytes(picture())
    write_multioff(tmp_path, [*memes(2), memes(1)[0], ("../../outside.png", "x", "1")])
    (tmp_path / "Labelled Images" / "m1.png").unlink()
    found = read_dataset(tmp_path)[1]
    assert [m.problem for m in found] == [
        "",
        "no such file in the data folder",
        "the same id and text as Training_meme_dataset.csv, row 2",
        "its path leads out of the data folder; give the file's name inside it",
    ]


def test_texts_that_no_file_can_hold_are_mended(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    line = '{"id": 1, "img": "a.png", "text": " lone \\ud83d and \\u0000 nul \\ud83e\\udd37 ", "label": 1}'
    assert rows(table(tmp_path, line, "train.jsonl"))[0][1] == "lone ? and   nul 🤷"
