"""Every published layout, made with drawn pictures: rows per split and label, and no picture missing."""

import csv
import gzip
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from fakes import picture

from embed.base.errors import DatasetError
from embed.data.choices import Choices
from embed.data.dataset import read_dataset
from embed.data.memes import Meme
from embed.data.understood import Understood

PICTURE = picture()
Counts = dict[tuple[str, int], int]


def draw(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def table(rows: list[list[Any]], delimiter: str = ",") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    return buffer.getvalue()


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def workbook(path: Path, rows: list[list[Any]]) -> Path:
    """The least that is a workbook: one sheet with cells of text and numbers."""
    cells = "".join(
        "<row>" + "".join(
            f"<c><v>{value}</v></c>" if isinstance(value, int) else f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
            for value in row
        ) + "</row>"
        for row in rows
    )  # fmt: skip
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{types}"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="memes" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return path


def multioff(data: Path) -> Counts:
    for name, label in (("Training", "offensive"), ("Validation", "Non-offensiv"), ("Testing", "Non-offensive")):
        write(
            data / "Split Dataset" / f"{name}_meme_dataset.csv",
            table([["image_name", "sentence", "label"], [f"{name}.png", "hi", label]]),
        )
        draw(data, f"Labelled Images/{name}.png")
    return {("train", 1): 1, ("validation", 0): 1, ("test", 0): 1}


def hateful_memes(data: Path) -> Counts:
    for number, (name, label) in enumerate(
        {"train": 1, "dev_seen": 0, "dev_unseen": 1, "test_seen": 0, "test_unseen": None}.items()
    ):
        row = {"id": number, "img": f"img/{number:05}.png", "text": f"t{number}"} | (
            {} if label is None else {"label": label}
        )
        write(data / f"{name}.jsonl", lines([row]))
        draw(data, row["img"])
    return {("train", 1): 1, ("validation", 0): 1, ("validation", 1): 1, ("test", 0): 1, ("test", -1): 1}


def fine_grained(data: Path) -> Counts:
    for number, (name, gold) in enumerate(
        {"train.json": "hateful", "dev_seen.json": "not_hateful", "test.jsonl": "hateful"}.items()
    ):
        row = {
            "id": number, "set_name": name.partition(".")[0], "img": f"img/{number:05}.png", "text": "t",
            "gold_hate": [gold], "gold_pc": ["pc_empty"], "gold_attack": [], "pc": [["sex"]], "attack": [[]],
        }  # fmt: skip
        write(data / name, lines([row, row | {"id": number + 10, "gold_hate": ["not_hateful"]}]))
        draw(data, row["img"])
    return {("train", 1): 1, ("train", 0): 1, ("validation", 0): 2, ("test", 1): 1, ("test", 0): 1}


def harm_c(data: Path, version: str = "") -> Counts:
    written = {
        "train": [
            ["not harmful"],
            ["somewhat harmful", "individual"],
            ["very harmful", "society"],
            ["", "not harmful"],
        ],
        "val": [["very harmful", "community"]],
        "test": [["not harmful"]],
    }
    for split, labels in written.items():
        rows = [
            {"id": f"{split}{n}", "image": f"{split}{n}.png", "labels": words, "text": f"{n}"}
            for n, words in enumerate(labels)
        ]
        write(data / f"{split}{version}.jsonl", lines(rows))
        draw(data, *(f"images/{row['image']}" for row in rows))
    return {("train", 0): 2, ("train", 1): 2, ("validation", 1): 1, ("test", 0): 1}


def harm_p(data: Path) -> Counts:
    return harm_c(data, "_v1")


def mami(data: Path) -> Counts:
    names = ["file_name", "misogynous", "shaming", "stereotype", "objectification", "violence", "Text Transcription"]
    rows = [["1.jpg", 1, 1, 0, 0, 0, "a, b"], ["2.jpg", 0, 0, 0, 0, 0, "c"], ["10.jpg", 1, 0, 1, 0, 0, "d"]]
    write(data / "TRAINING/training.csv", table([names, *rows], "\t"))
    write(
        data / "test/Test.csv",
        table([["file_name", "Text Transcription"], ["15236.jpg", "e"], ["15805.jpg", "f"]], "\t"),
    )
    write(data / "test_labels.txt", "15236.jpg\t0\t0\t0\t0\t0\n15805.jpg\t1\t0\t0\t1\t0\n")
    draw(data, "TRAINING/1.jpg", "TRAINING/2.jpg", "TRAINING/10.jpg", "test/15236.jpg", "test/15805.jpg")
    return {("train", 1): 2, ("train", 0): 1, ("test", 0): 1, ("test", 1): 1}


def memotion_1(data: Path) -> Counts:
    names = [
        "",
        "image_name",
        "text_ocr",
        "text_corrected",
        "humour",
        "sarcasm",
        "offensive",
        "motivational",
        "overall_sentiment",
    ]
    words = ["not_offensive", "slight", "very_offensive", "hateful_offensive"]
    rows = [
        [
            n,
            f"image_{n}.jpg",
            f"OCR {n}",
            "" if n == 0 else f"right {n}",
            "funny",
            "general",
            word,
            "motivational",
            "positive",
        ]
        for n, word in enumerate(words)
    ]
    write(data / "labels.csv", table([names, *rows]))
    write(
        data / "2000_testdata.csv",
        table(
            [
                ["Image_name", "Image_URL", "OCR_extracted_text", "corrected_text"],
                ["t1.jpg", "http://x/t1.jpg", "o", "c"],
                ["t2.jpg", "", "o", ""],
            ]
        ),
    )
    write(data / "Meme_groundTruth.csv", table([["Image_name", "Labels"], ["t1.jpg", "0_1010"], ["t2.jpg", "-1_1101"]]))
    draw(data, *(f"images/image_{n}.jpg" for n in range(4)), "2000_data/t1.jpg", "2000_data/t2.jpg")
    return {("train", 0): 1, ("train", 1): 3, ("test", 1): 1, ("test", 0): 1}


def memotion_3(data: Path) -> Counts:
    names = ["", "image_url", "humour", "sarcastic", "offensive", "motivational", "overall", "ocr"]
    for file, words in (("train", ["not_offensive", "slight", "very_offensive"]), ("val", ["hateful_offensive"])):
        rows = [
            [n, "http://x", "funny", "sarcastic", word, "not_motivational", "neutral", f"words\nof {n}"]
            for n, word in enumerate(words)
        ]
        write(data / f"memotion_{file}.csv", table([names, *rows], "\t"))
        draw(data, *(f"{file}Images/{n}.jpg" for n in range(len(words))))
    return {("train", 0): 1, ("train", 1): 2, ("validation", 1): 1}


def pride_mm(data: Path) -> Counts:
    rows = [
        ["a.png", "None", 1, "undirected", "oppose", 0, "train"],
        ["b.png", "t", 0, "", "support", 1, "val"],
        ["c.png", "u", 0, "", "neutral", 1, "test"],
    ]
    write(data / "PrideMM.csv", table([["name", "text", "hate", "target", "stance", "humour", "split"], *rows]))
    draw(data, "Images/a.png", "Images/b.png", "Images/c.png")
    return {("train", 1): 1, ("validation", 0): 1, ("test", 0): 1}


def mmhs150k(data: Path) -> Counts:
    rows = {"11": [4, 1, 3], "22": [0, 0, 5], "33": [0, 0, 0], "44": [0, 2, 2]}
    write(
        data / "MMHS150K_GT.json",
        json.dumps(
            {
                n: {"img_url": "u", "labels": v, "labels_str": [], "tweet_text": "tweet", "tweet_url": "v"}
                for n, v in rows.items()
            }
        ),
    )
    for name, numbers in (("train", "11\n22\n"), ("val", "33\n"), ("test", "44\n")):
        write(data / "splits" / f"{name}_ids.txt", numbers)
    write(data / "img_txt/11.json", json.dumps({"img_text": "on the picture"}))
    draw(data, *(f"img_resized/{number}.jpg" for number in rows))
    return {("train", 1): 1, ("train", 0): 1, ("validation", 0): 1, ("test", 1): 1}


def propaganda(data: Path) -> Counts:
    for name, labels in (("training", [["Smears", "Loaded Language"], []]), ("test", [["Doubt"]])):
        rows = [
            {"id": f"{n}", "labels": found, "text": "t\\nu", "image": f"{n}_{name}.png"}
            for n, found in enumerate(labels)
        ]
        write(data / f"{name}_set_task3.txt", json.dumps(rows))
        draw(data, *(f"{name}_set_task3/{row['image']}" for row in rows))
    return {("train", 1): 1, ("train", 0): 1, ("test", 1): 1}


def tamil_trolls(data: Path) -> Counts:
    write(
        data / "train_captions.csv",
        table(
            [
                ["", "imagename", "captions"],
                [0, "troll_1.jpg", "a"],
                [1, "Not_troll_2.jpg", "b"],
                [2, "troll_3.jpg", "c"],
            ]
        ),
    )
    write(
        data / "test_captions.csv",
        table([["", "imagename", "captions"], [0, "test_img_0.jpg", "d"], [1, "test_img_1.jpg", "e"]]),
    )
    write(
        data / "gold_labels_for_test.csv",
        table([["", "imagename", "label"], [0, "test_img_0.jpg", "troll"], [1, "test_img_1.jpg", "Not_troll"]]),
    )
    draw(
        data,
        *(f"uploaded_tamil_memes/{name}.jpg" for name in ("troll_1", "Not_troll_2", "troll_3")),
        "test_img/test_img_0.jpg",
        "test_img/test_img_1.jpg",
    )
    return {("train", 1): 2, ("train", 0): 1, ("test", 1): 1, ("test", 0): 1}


def mute(data: Path) -> Counts:
    for split, label in (("train", "hate"), ("valid", "not-hate"), ("test", "hate")):
        workbook(
            data / f"{split}_hate.xlsx",
            [["image_name", "Captions", "Label"], [f"{split}.jpg", "কথা", label], [f"{split}2.jpg", 42, "not-hate"]],
        )
        draw(data, f"Memes/{split}.jpg", f"Memes/{split}2.jpg")
    return {("train", 1): 1, ("train", 0): 1, ("validation", 0): 2, ("test", 1): 1, ("test", 0): 1}


def bengali(data: Path) -> Counts:
    for split, label in (("train", "hate"), ("valid", "non-hate"), ("test", "hate")):
        workbook(data / f"{split}_task1.xlsx", [["image_name", "Captions", "Labels"], [f"{split}.jpg", "কথা", label]])
        draw(data, f"Memes/{split}.jpg")
    return {("train", 1): 1, ("validation", 0): 1, ("test", 1): 1}


def crisis_hate(data: Path) -> Counts:
    write(
        data / "memes.csv",
        table([["filename", "text", "label"], ["1.jpg", "a", "Hate Speech"], ["2.jpg", "b", "No Hate Speech"]]),
    )
    draw(data, "Hate Speech/1.jpg", "No Hate Speech/2.jpg")
    return {("train", 1): 1, ("train", 0): 1}


def meme_lens(data: Path) -> Counts:
    for split, label in (("train", "propaganda"), ("val", "not-propaganda"), ("test", "propaganda")):
        write(
            data / f"ar/prop/{split}.jsonl",
            lines([{"id": split, "image": f"images/{split}.png", "text": "t", "label": label}]),
        )
        draw(data, f"ar/prop/images/{split}.png")
    return {("train", 1): 1, ("validation", 0): 1, ("test", 1): 1}


def multi3hate(data: Path) -> Counts:
    for language in ("en", "de"):
        rows = [[1, "Bad Luck", "one<sep>two", "eins<sep>zwei"], [2, "Drake", "three", "drei"]]
        write(
            data / f"data/captions/{language}.csv",
            table([["Meme ID", "Template Name", "Original (English)", "Translation"], *rows]),
        )
        draw(data, f"data/memes/{language}/Bad Luck/1.jpg", f"data/memes/{language}/Drake/2.jpg")
    write(
        data / "data/final_annotations.csv",
        table([["Meme ID", "US", "DE", "MX", "CN", "IN"], [1, 1, 1, 0, 1, 0], [2, 0, 0, 0, 0, 1]]),
    )
    return {("train", 1): 1, ("train", 0): 1}


def issues_copy(data: Path) -> Counts:
    rows = [[1, "1.png", "a", 1, "train"], [2, "2.png", "b", 0, "val"], [3, "3.png", "c", 1, "test_seen"]]
    write(data / "labels/info.csv", table([["id", "image", "text", "label", "split"], *rows]))
    draw(data, "img/1.png", "img/2.png", "img/3.png")
    return {("train", 1): 1, ("validation", 0): 1, ("test", 1): 1}


def label_folders(data: Path) -> Counts:
    draw(
        data,
        "offensive/a.png",
        "offensive/deep/b.JPG",
        "non-offensive/a.png",
        "unlabelled/c.png",
        "offensive/.DS_Store",
    )
    return {("train", 1): 2, ("train", 0): 1, ("train", -1): 1}


def label_folders_in_splits(data: Path) -> Counts:
    draw(data, "train/hate/a.png", "train/not_hate/a.png", "val/hate/b.png", "test/not_hate/c.png")
    return {("train", 1): 1, ("train", 0): 1, ("validation", 1): 1, ("test", 0): 1}


def numbered_folders(data: Path) -> Counts:
    draw(data, "0/a.png", "1/b.png", "1/c.png")
    return {("train", 0): 1, ("train", 1): 2}


def gzipped(data: Path) -> Counts:
    data.mkdir(exist_ok=True)
    (data / "memes.csv.gz").write_bytes(gzip.compress(b"image,text,label\na.png,hi,1\nb.png,ho,0\n"))
    draw(data, "images/a.png", "images/b.png")
    return {("train", 1): 1, ("train", 0): 1}


def labels_in_another_file(data: Path) -> Counts:
    write(data / "train.csv", "image,text,label\na.png,hi,1\nb.png,ho,0\n")
    write(data / "test.csv", "image,text\nc.png,he\nd.png,hu\n")
    write(data / "test_labels.csv", "image,label\nd.png,1\nc.png,0\n")
    draw(data, *(f"pictures/{name}.png" for name in "abcd"))
    return {("train", 1): 1, ("train", 0): 1, ("test", 0): 1, ("test", 1): 1}


def no_text_column(data: Path) -> Counts:
    write(data / "memes.csv", "Image Name,Is offensive?\na.png,yes\nb.png,no\n")
    draw(data, "img/a.png", "img/b.png")
    return {("train", 1): 1, ("train", 0): 1}


MAKERS = [
    multioff, hateful_memes, fine_grained, harm_c, harm_p, mami, memotion_1, memotion_3, pride_mm, mmhs150k, propaganda,
    tamil_trolls, mute, bengali, crisis_hate, meme_lens, multi3hate, issues_copy, label_folders, label_folders_in_splits,
    numbered_folders, gzipped, labels_in_another_file, no_text_column,
]  # fmt: skip


def read(data: Path, **choices: str) -> tuple[list[Meme], str]:
    understood = Understood()
    memes = read_dataset(data, Choices(**choices), understood)[1]
    return memes, "\n".join(understood.lines())


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_layout_gives_its_splits_and_labels_and_every_picture(tmp_path: Path, make: Callable[[Path], Counts]) -> None:
    counts = make(tmp_path)
    memes, _ = read(tmp_path)
    assert Counter((meme.split, meme.label) for meme in memes) == counts
    assert [meme.problem for meme in memes] == [""] * len(memes)
    assert len({meme.id for meme in memes}) == len(memes)


def test_texts_of_layouts_with_two_columns_or_other_files(tmp_path: Path) -> None:
    for make in (memotion_1, mmhs150k, multi3hate, pride_mm, mute, memotion_3):
        make(tmp_path / make.__name__)
    texts = {
        make: [meme.text for meme in read(tmp_path / make)[0]]
        for make in ("memotion_1", "mmhs150k", "multi3hate", "pride_mm", "memotion_3")
    }
    assert texts["memotion_1"] == ["OCR 0", "right 1", "right 2", "right 3", "c", "o"]
    assert texts["mmhs150k"] == ["on the picture", "", "", ""]
    assert texts["multi3hate"] == ["one\ntwo", "three"]
    assert texts["pride_mm"] == ["", "t", "u"]
    assert texts["memotion_3"][0] == "words\nof 0"
    german, _ = read(tmp_path / "multi3hate/data/memes/de")
    assert [(meme.text, meme.problem) for meme in german] == [("eins\nzwei", ""), ("drei", "")]


def test_a_label_column_is_picked_and_words_are_said_to_be_positive(tmp_path: Path) -> None:
    mami(tmp_path / "mami")
    assert [meme.label for meme in read(tmp_path / "mami", label="shaming")[0]] == [1, 0, 0, 0, 0]
    assert [meme.label for meme in read(tmp_path / "mami", label="objectification")[0]] == [0, 0, 0, 0, 1]
    multi3hate(tmp_path / "multi")
    assert [meme.label for meme in read(tmp_path / "multi", label="IN")[0]] == [0, 1]
    harm_c(tmp_path / "harm")
    assert [meme.label for meme in read(tmp_path / "harm", positive="very harmful")[0]] == [0, 0, 1, 0, 1, 0]
    with pytest.raises(DatasetError, match="no label is one of POSITIVE=verry harmful; the labels are: not harmful"):
        read(tmp_path / "harm", positive="verry harmful")
    with pytest.raises(DatasetError, match="LABEL=x: not a label of MAMI"):
        read(tmp_path / "mami", label="x")


def test_annotators_agreement_is_recorded(tmp_path: Path) -> None:
    mmhs150k(tmp_path)
    assert [round(meme.agreement, 2) for meme in read(tmp_path)[0]] == [1.0, 0.67, 1.0, 0.67]
    memes, said = read(
        write(tmp_path / "m.csv", "image,text,label\na.png,a,hate|hate|not_hate\nb.png,b,1;0\nc.png,c,0\n")
    )
    assert [(meme.label, round(meme.agreement, 2)) for meme in memes] == [(1, 0.67), (-1, 0.5), (0, 1.0)]
    assert "disagree on 2 rows" in said


def test_folders_named_by_no_label_are_left_out_aloud(tmp_path: Path) -> None:
    draw(tmp_path, "racist stuff/a.png", "offensive/b.png", "non-offensive/c.png")
    memes, said = read(tmp_path)
    assert [meme.id for meme in memes] == ["non-offensive/c.png", "offensive/b.png"]
    assert "racist stuff/: 1 picture; its name is no label" in said
    memes, _ = read(tmp_path, positive="racist stuff,offensive")
    assert [meme.label for meme in memes] == [0, 1, 1]


def test_tables_in_several_folders_are_listed(tmp_path: Path) -> None:
    meme_lens(tmp_path)
    write(tmp_path / "en/hate/train.jsonl", lines([{"image": "a.png", "text": "t", "label": "hateful"}]))
    with pytest.raises(DatasetError, match="tables lie in 2 folders; give one of them as DATA: ar/prop, en/hate"):
        read(tmp_path)


def test_predictions_are_left_out_aloud(tmp_path: Path) -> None:
    no_text_column(tmp_path)
    write(
        tmp_path / "test_predictions.csv",
        "image_name,text,text_source,label,probability,threshold,model_version,problem\na.png,t,given,offensive,.9,.5,v,\n",
    )
    memes, said = read(tmp_path)
    assert len(memes) == 2 and "left out    test_predictions.csv: predictions of `predict-folder`" in said
