"""Tables as people write them: spreadsheets, column names, missing values, names from Windows, remembered choices."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from embed.base.errors import DatasetError
from embed.data.choices import Choices, remember, remembered
from embed.data.dataset import read_dataset
from embed.data.labels import LabelReader
from embed.data.memes import Meme
from embed.data.understood import Understood
from tests.embed.data.test_layouts import draw, lines, workbook, write


def read(data: Path, **choices: str) -> tuple[list[Meme], str]:
    understood = Understood()
    memes = read_dataset(data, Choices(**choices), understood)[1]
    return memes, "\n".join(understood.lines())


@pytest.mark.parametrize(
    "text",
    [
        "image;text;label\na.png;hi, there;1\nb.png;ho;0\n",
        "sep=;\nimage;text;label\na.png;hi, there;1\nb.png;ho;0\n",
        "image\ttext\tlabel\na.png\thi, there\t1\nb.png\tho\t0\n",
        "image|text|label\na.png|hi, there|1\nb.png|ho|0\n",
        '\n,,\n\nimage,text,label,,\na.png,"hi, there",1,,\nb.png,ho,0,,\n,,,,\n,,,,\n\n',
        'image,text,label\r\na.png,"hi, there",1\r\nb.png,ho,0\r\n',
        'image,text,label\na.png,"hi, there",1,\nb.png,ho,0,\n',
        'Image Name,Text on image,Is offensive?\na.png,"hi, there",yes\nb.png,ho,No\n',
        'IMAGE-NAME,Text Transcription,LABEL\na.png,"hi, there",TRUE\nb.png,ho,FALSE\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_is_read_as_the_spreadsheet_meant_it(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "memes.csv").write_bytes(text.encode(encoding))
    draw(tmp_path, "a.png", "b.png")
    memes, _ = read(tmp_path)
    assert [(m.id, m.text, m.label, m.problem) for m in memes] == [
        ("a.png", "hi, there", 1, ""),
        ("b.png", "ho", 0, ""),
    ]


def test_cp1252_is_read_and_said_with_a_word_of_it(tmp_path: Path) -> None:
    (tmp_path / "memes.csv").write_bytes("image,text,label\na.png,hi,1\nb.png,mañana – café,0\n".encode("cp1252"))
    memes, said = read(tmp_path)
    assert memes[1].text == "mañana – café"
    assert "memes.csv: not UTF-8; read as cp1252 (Windows): “b.png,mañana – café,0” in row 3" in said


@pytest.mark.parametrize("name", ["a.png", "aa.png"])
def test_a_table_on_one_long_line_is_utf8_wherever_its_blocks_end(tmp_path: Path, name: str) -> None:
    rows = [{"img": name, "text": "é" * 20_000, "label": n % 2} for n in range(60)]
    write(tmp_path / "m.json", json.dumps(rows, ensure_ascii=False))
    assert {meme.text for meme in read(tmp_path)[0]} == {"é" * 20_000}


def test_an_honest_long_text_is_read(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", f'image,text,label\na.png,"{"word " * 150_000}",1\nb.png,ho,0\n')
    assert len(read(tmp_path)[0][0].text) == 749_999


def test_a_row_with_quotes_inside_is_not_taken_for_an_open_one(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", 'image,text,label\na.png,"two ""lines""\nof text",1\nb.png,5" screen,0\n')
    assert [meme.text for meme in read(tmp_path)[0]] == ['two "lines"\nof text', '5" screen']


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "m.json",
            json.dumps([{"img": "a.png", "text": "hi", "label": 1}, {"img": "b.png", "text": "ho", "label": 0}]),
        ),
        (
            "m.json",
            lines([{"img": "a.png", "text": "hi", "label": True}, {"img": "b.png", "text": "ho", "label": False}]),
        ),
        ("m.json", json.dumps({"a": {"text": "hi", "label": 1}, "b": {"text": "ho", "label": 0}}, indent=1)),
        (
            "m.json",
            json.dumps(
                {
                    "about": "x",
                    "memes": [{"img": "a.png", "text": "hi", "label": 1}, {"img": "b.png", "text": "ho", "label": 0}],
                }
            ),
        ),
        ("m.tsv", "img\ttext\tlabel\na.png\thi\t1\nb.png\tho\t0\n"),
    ],
)
def test_json_of_every_form_and_tsv(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / name, text)
    draw(tmp_path, "a.png", "b.png")
    assert [(m.text, m.label, m.problem) for m in read(tmp_path)[0]] == [("hi", 1, ""), ("ho", 0, "")]


def test_a_json_file_that_is_no_table_is_left_out_aloud(tmp_path: Path) -> None:
    write(tmp_path / "config.json", '{"version": 3}')
    write(tmp_path / "notes.csv", "who,what\nme,nothing\n")
    write(tmp_path / "memes.csv", "image,text,label\na.png,hi,1\n")
    _, said = read(tmp_path)
    assert "left out    config.json: holds no rows" in said and "left out    notes.csv: no column for image" in said
    write(tmp_path / "test.csv", "picture_of,label\na.png,1\n")
    with pytest.raises(DatasetError, match=r"test.csv: no column for image: .*It has: picture_of, label"):
        read(tmp_path)


def test_excel_rows_have_excels_numbers(tmp_path: Path) -> None:
    workbook(tmp_path / "m.xlsx", [["image", "text", "label"], ["a.png", "hi", 1], ["b.png", "ho", "maybe"]])
    with pytest.raises(DatasetError, match=r"m.xlsx, row 3: unknown label 'maybe'.*POSITIVE="):
        read(tmp_path)
    (tmp_path / "m.xlsx").write_bytes(b"PK no zip")
    with pytest.raises(DatasetError, match=r"m.xlsx: not an Excel workbook"):
        read(tmp_path)


def test_columns_reach_into_nested_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"media": {"path": "a.png"}, "caption": None, "annotation": {"offensive": True}},
        {"media": {"path": "b.png"}, "caption": "ho", "annotation": {"offensive": False}},
        {"media": {"path": "c.png"}, "caption": "he", "annotation": None},
    ]
    write(tmp_path / "m.jsonl", lines(rows))
    memes, said = read(tmp_path, columns="image=media.path, text=caption,label=annotation.offensive")
    assert [(m.id, m.text, m.label) for m in memes] == [("a.png", "", 1), ("b.png", "ho", 0), ("c.png", "he", -1)]
    assert "1 row: embedded, left out of tuning" in said and "no text     1 row; add OCR=on" in said
    assert "image = media.path" in said


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"columns": "picture=x"}, "COLUMNS: 'picture=x' is not <field>=<column> with a field of image, text, label"),
        ({"columns": "text"}, "COLUMNS: 'text' is not"),
        ({"columns": "text=words"}, r"no column 'words'.*it has: image, (text, label|label, text)"),
        (
            {"label": "harm"},
            r"none of the 1 rows has a label: looked for a column called harm; columns: image, text, label",
        ),
        ({"label": "a", "columns": "label=b"}, "LABEL=a and COLUMNS name two label columns"),
    ],
)
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_wrong_choice_is_a_sentence(tmp_path: Path, choices: dict[str, str], said: str, name: str) -> None:
    row = {"image": "a.png", "text": "hi", "label": "1"}
    write(tmp_path / name, lines([row]) if name.endswith("l") else "image,text,label\na.png,hi,1\n")
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, **choices)


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan", "None", "N/A", "null"])
def test_what_is_missing_is_missing_in_every_format(tmp_path: Path, missing: object) -> None:
    row = {"id": missing, "image": "a.png", "text": missing, "label": missing}
    write(tmp_path / "train.jsonl", lines([row, {"image": "b.png", "text": "ho", "label": 1}]))
    cells = "" if missing is None else str(missing)
    write(tmp_path / "val.csv", f"id,image,text,label\n{cells},a.png,{cells},{cells}\n")
    memes, said = read(tmp_path)
    assert [(m.id, m.text, m.label) for m in memes] == [("a.png", "", -1), ("b.png", "ho", 1), ("a.png", "", -1)][
        : len(memes)
    ]
    assert "unlabelled  2 rows" in said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("text", ["a", "b"], r"row 1: the text must be a string, got a list: \['a', 'b'\]"),
        ("text", {"en": "a"}, "row 1: the text must be a string, got an object"),
        ("text", 3, "row 1: the text must be a string, got a number: 3"),
        ("text", True, "row 1: the text must be a string, got a boolean"),
        ("img", ["a.png"], "row 1: the picture's name must be a string, got a list"),
        ("id", {"a": 1}, "row 1: the id must be a string, got an object"),
        ("id", 1.5, "row 1: the id must be a string, got a number"),
        ("label", {"a": 1}, "row 1: the label must be a word or a number, got"),
        ("label", [["hate"]], "row 1: the label must be a word or a number, got"),
    ],
)
def test_a_value_of_another_kind_is_a_complaint(tmp_path: Path, field: str, value: object, said: str) -> None:
    write(tmp_path / "m.jsonl", lines([{"img": "a.png", "text": "t", "label": 1, field: value}]))
    with pytest.raises(DatasetError, match=said):
        read(tmp_path)


def test_one_id_and_text_with_two_pictures_are_two_memes(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", "id,image,text,label\n1,a.png,same,1\n1,b.png,same,0\n1,b.png,same,0\n")
    draw(tmp_path, "a.png", "b.png")
    memes, _ = read(tmp_path)
    assert [(m.id, m.problem) for m in memes] == [("1", ""), ("1#2", ""), ("1", "the same id and text as m.csv, row 3")]


@pytest.mark.parametrize(
    ("written", "there", "how"),
    [
        ("images\\a.png", "images/a.png", "paths of Windows"),
        ("C:\\Users\\me\\memes\\a.png", "images/a.png", "paths of Windows"),
        ("D:/memes/train/a.png", "train/a.png", "paths of Windows"),
        ("a.PNG", "a.png", "spelled otherwise"),
        ("A.png", "deep/er/a.PNG", "in other folders"),
        ("sub/a.png", "all/sub/a.png", "spelled otherwise"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png"), "spelled otherwise"),
        ("42", "pictures/42.jpg", "spelled otherwise"),
    ],
)
def test_a_picture_is_found_where_its_name_is_unambiguous(tmp_path: Path, written: str, there: str, how: str) -> None:
    draw(tmp_path, there, "z.png")
    write(tmp_path / "m.csv", f"image,text,label\n{written},hi,1\nz.png,ho,0\n")
    memes, said = read(tmp_path)
    assert [(m.image, m.problem) for m in memes] == [(there, ""), ("z.png", "")]
    assert "pictures    1 found" in said and how in said


def test_a_name_of_several_pictures_is_a_complaint(tmp_path: Path) -> None:
    draw(tmp_path, "one/a.png", "two/a.png")
    write(tmp_path / "m.csv", "image,text,label\na.png,hi,1\ntwo/a.PNG,ho,0\n..\\a.png,hu,0\n")
    memes, _ = read(tmp_path)
    assert memes[0].problem.startswith("no such file in the data folder; 2 of this name lie below it, such as ")
    assert (memes[1].image, memes[1].problem) == ("two/a.png", "")
    assert "leads out of the data folder" in memes[2].problem


def test_a_file_with_a_backslash_in_its_name_keeps_it(tmp_path: Path) -> None:
    draw(tmp_path, "x\\a.png", "x/a.png")
    write(tmp_path / "m.csv", "image,text,label\nx\\a.png,hi,1\n")
    assert read(tmp_path)[0][0].image == "x\\a.png"


def test_links_into_a_hubs_blobs_can_be_allowed(tmp_path: Path) -> None:
    draw(tmp_path, "blobs/1f", "secret/1f")
    data = tmp_path / "snapshots" / "x"
    data.mkdir(parents=True)
    (data / "a.png").symlink_to("../../blobs/1f")
    (data / "b.png").symlink_to("../../secret/1f")
    write(data / "m.csv", "image,text,label\na.png,hi,1\nb.png,ho,0\n")
    assert [bool(meme.problem) for meme in read(data)[0]] == [True, True]
    assert [bool(meme.problem) for meme in read(data, links=str(tmp_path / "blobs"))[0]] == [False, True]
    with pytest.raises(DatasetError, match="LINKS=.*: no such folder"):
        read(data, links=str(tmp_path / "nowhere"))


def test_choices_are_remembered_until_others_are_given(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    assert remembered(file, {}) == (Choices(), [])
    remember(file, Choices(images="pics", label="harm"))
    assert remembered(file, {"label": None}) == (Choices("pics", label="harm"), ["IMAGES=pics", "LABEL=harm"])
    assert remembered(file, {"label": "hate", "images": ""}) == (Choices(label="hate"), [])
    for odd in ("[1]", "{", '{"images": 3, "other": "x"}'):
        file.write_text(odd)
        assert remembered(file, {}) == (Choices(), [])
    remember(file, Choices())
    assert not file.exists()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *(
            (word, (1, 1.0))
            for word in ("Hate Speech", "troll", "propaganda", "very_offensive", "Yes", True, 1.0, "misogynous")
        ),
        *(
            (word, (0, 1.0))
            for word in ("No Hate Speech", "Not_troll", "not-propaganda", "not_offensive", "no", False, "harmless")
        ),
        (["hateful"], (1, 1.0)),
        ("1, 0, 1", (1, 2 / 3)),
        ("['0', '0', '1']", (0, 2 / 3)),
        ([1, 0], (-1, 0.5)),
        ([None, 1], (1, 1.0)),
        ([], (-1, 1.0)),
        ("unlabeled", (-1, 1.0)),
    ],
)
def test_words_and_votes(value: object, read: tuple[int, float]) -> None:
    assert LabelReader().read(value) == read


def test_what_was_understood_is_told(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "image,words,label\na.png,hi,yes\nb.png,ho,no\nc.png,he,\n")
    write(tmp_path / "test.csv", "image,label\na.png,no\n")
    draw(tmp_path, "a.png", "b.png")
    assert read(tmp_path)[1].splitlines() == [
        "layout      plain tables: train.csv (3 rows), test.csv (1 row)",
        "columns     image = image, label = label (not used: words)",
        "labels      no = non-offensive: 2, yes = offensive: 1",
        "splits      train: 1 offensive + 1 non-offensive + 1 unlabelled, test: 1 non-offensive",
        "unlabelled  1 row: embedded, left out of tuning",
        "no text     4 rows; add OCR=on to read it from the pictures",
    ]


def test_a_name_is_looked_up_in_a_listing_that_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path, *(f"deep/{n}.png" for n in range(20)))
    write(tmp_path / "m.csv", "image,text,label\n" + "".join(f"{n}.png,t,{n % 2}\n" for n in range(20)))
    walk, calls = os.walk, []
    monkeypatch.setattr(os, "walk", lambda root: calls.append(root) or walk(root))
    assert "pictures    20 found" in read(tmp_path)[1] and len(calls) == 1
