import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_fakes import FakeClassifier, make_predictor
from fakes import interrupted, memes, picture, write_multioff

from api import __main__ as command
from api.commands import predict_folder as folder
from api.model.loading import LoadedModel
from api.model.prediction import Meme, Predictor, Reader
from cache import cores


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture(autouse=True)
def any_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_bundle", lambda bundle, artifacts: bundle)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, classifier: FakeClassifier) -> list[bytes]:
    """Makes the command use the fake, and OCR return "sneer"; returns the pictures that were classified."""
    pictures: list[bytes] = []
    usual = Predictor.begin

    def load(settings: Any, metrics: Any, reader: Any) -> LoadedModel:
        read = reader.read if reader else None
        return LoadedModel(make_predictor(classifier, read, batch=settings.batch), None)  # type: ignore[arg-type]

    def make_reader(settings: Any) -> Reader | None:
        return None if settings.ocr == "off" else Reader(lambda data: "sneer", "fake", progress=lambda: "7 read now")

    monkeypatch.setattr(folder, "load_model", load)
    monkeypatch.setattr(folder, "make_reader", make_reader)
    monkeypatch.setattr(
        Predictor, "begin", lambda self, meme, name: pictures.append(meme.data) or usual(self, meme, name)
    )
    return pictures


def run(*arguments: Any) -> int:
    return command.main(["predict-folder", *map(str, arguments)])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read(path: Path) -> list[dict[str, str]]:
    return rows_of(path.read_bytes().decode("utf-8"))


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def write_table(root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("image_name", "text")) -> Path:
    root.mkdir(exist_ok=True)
    with (root / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root / "list.csv"


def test_a_folder_is_sorted_by_name_without_hidden_files(judged, tmp_path, capsys):
    names = ["b.png", "a b.JPG", "deep/er/ü 🤷.webp", "=1.png", '"q", x.gif', "Labelled Images/b.png"]
    write(tmp_path, *names, ".hidden.png", ".git/x.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert run(tmp_path, "--ocr", "off") == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert [row["image_name"] for row in rows] == sorted(names)
    assert len(set(judged)) == len(names)  # each its own picture, also of two with one name
    assert rows[0] == {
        "image_name": '"q", x.gif', "text": "", "text_source": "none", "label": "non-offensive", "probability": "0.0",
        "threshold": "0.4", "model_version": "0123", "problem": "",
    }  # fmt: skip
    assert out.startswith(",".join(folder.COLUMNS) + "\r\n") and "skipped 1 files" in err


def test_ocr_of_pictures_without_text(judged, tmp_path, capsys):
    table = write_table(tmp_path, [("a.png", "four"), ("a.png", " "), ("a.png", "")])
    write(tmp_path, "a.png")
    assert run(table) == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert "memes/s, 7 read now]" in err
    assert err.endswith("words of pictures without a text: 7 read now, by fake\n")
    assert [(row["text"], row["text_source"], row["probability"]) for row in rows] == [
        ("four", "request", "0.4"), ("sneer", "ocr", "0.5"), ("sneer", "ocr", "0.5"),
    ]  # fmt: skip
    assert [row["label"] for row in rows] == ["offensive"] * 3


TEXTS = ["=1+1", "+1", "-1", "@x", "\ttab", 'say "hi", you', "one\ntwo", "one\r\ntwo", "one\rtwo", "ü 🤷", "a" * 5000]


def test_texts_are_written_unchanged(judged, tmp_path):
    table = write_table(write(tmp_path, "a.png"), [("a.png", text) for text in TEXTS])
    assert run(table, "--out", tmp_path / "out.csv") == 0
    assert [row["text"] for row in read(tmp_path / "out.csv")] == [text.strip() for text in TEXTS]


def test_json_lines_without_texts_and_labels(judged, tmp_path, capsys):
    write(tmp_path, "img/a.png", "img/b.png")
    (tmp_path / "t.jsonl").write_text('{"img": "a.png"}\n{"img": "b.png", "text": null, "label": "?"}\nno JSON\n')
    assert run(tmp_path / "t.jsonl", "--ocr", "off") == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert [row["image_name"] for row in rows] == ["a.png", "b.png", ""]
    assert rows[2]["problem"].startswith("t.jsonl, row 3: not JSON") and "1 of 3 memes could not be classified" in err


@pytest.mark.parametrize("source", ["", "Split Dataset/Training_meme_dataset.csv"])
def test_multioffs_layout(judged, tmp_path, capsys, source):
    write_multioff(tmp_path, memes(3))
    assert run(tmp_path / source) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(row["image_name"], row["text"]) for row in rows] == [(f"m{i}.png", f"text {i}") for i in range(3)]


def test_a_problem_is_a_row(judged, tmp_path, capsys):
    root = write(tmp_path / "data", "good.png")
    (root / "bad.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(picture(9))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to("good.png")
    write(tmp_path / "other", "x.png")
    (root / "folder").symlink_to(tmp_path / "other")
    os.mkfifo(root / "pipe.png")
    assert run(root) == 0
    out, err = capsys.readouterr()
    problems = {row["image_name"]: row["problem"] for row in rows_of(out)}
    assert problems["good.png"] == problems["inside.png"] == "" and set(judged) == {picture(0), b"no picture"}
    assert "not an image in a known format" in problems["bad.png"]
    assert "a link that leads out" in problems["link.png"] and "a named pipe" in problems["pipe.png"]
    assert "folder/x.png" not in problems and "3 of 5 memes could not be classified" in err
    bad = next(row for row in rows_of(out) if row["image_name"] == "bad.png")
    assert (bad["label"], bad["probability"], bad["text_source"], bad["model_version"]) == ("", "", "", "0123")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (("gone.png", "x"), "no such file in the data folder"),
        (("../a.png", "x"), "its path leads out of the data folder"),
        (("", "x"), "list.csv, row 2: no image name"),
        (("a.png", "x" * 1001), "its text has 1,001 characters, the limit is 1,000"),
        (("a.png", "x", "more"), "list.csv, row 2: more fields than the header has"),
    ],
)
def test_only_problems_exit_with_2(judged, tmp_path, capsys, monkeypatch, row, problem):
    monkeypatch.setattr(folder, "MAX_TEXT", 1000)
    table = write_table(write(tmp_path / "data", "a.png"), [row])
    assert run(table) == 2
    assert problem in rows_of(capsys.readouterr().out)[0]["problem"]
    assert judged == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "expected a folder of pictures, or a table of them that ends in .csv or .jsonl"),
        ("a.png", "expected a folder of pictures, or a table of them that ends in .csv or .jsonl"),
        ("empty", "no pictures; expected files that end in .png,"),
        ("columns.csv", "no column for image: one of image_name,"),
    ],
)
def test_a_source_without_memes_is_refused_before_loading(tmp_path, monkeypatch, capsys, name, sentence):
    monkeypatch.setattr(folder, "load_model", lambda *_: pytest.fail("the model was loaded"))
    write(tmp_path, "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "columns.csv").write_text("words\nx\n")
    assert run(tmp_path / name) == 2
    assert sentence in capsys.readouterr().err


SOURCES: list[Callable[[Path], Path]] = [
    lambda root: write(root, *(f"m{i}.png" for i in range(6))),
    lambda root: write_table(write(root, "a.png", "b.png"), [("a.png", "x\r\ny"), ("b.png", '"'), ("a.png", "")] * 2),
]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("ocr", ["on", "off"])
def test_an_interrupted_run_can_be_continued_from_any_byte(judged, tmp_path, monkeypatch, make, ocr):
    source, out = make(tmp_path / "data"), tmp_path / "out.csv"
    assert run(source, "--out", out, "--ocr", ocr) == 0
    whole = out.read_bytes()
    items, done = folder._items(source, print), []
    for size in range(len(folder._HEADER), len(whole)):
        rows = folder._rows_of(whole[: folder._complete(whole[:size])], "0123", out)
        assert folder._remaining(items, rows) == items[len(rows) :]
        done.append(len(rows))
    assert sorted(done) == done and set(done) == set(range(6))
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:size])
        judged.clear()
        assert run(source, "--out", out, "--ocr", ocr) == 0
        assert out.read_bytes() == whole and len(judged) == 6 - done[max(0, size - len(folder._HEADER))]


def test_ctrl_c_keeps_the_rows(judged, tmp_path, monkeypatch):
    source, out = write(tmp_path / "data", *(f"m{i}.png" for i in range(6))), tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        finish, _ = interrupted(Predictor._finish, at=4)
        patch.setattr(Predictor, "_finish", lambda *arguments: finish(*arguments))
        assert run(source, "--out", out) == 130
    assert [row["image_name"] for row in read(out)] == ["m0.png", "m1.png", "m2.png"]
    judged.clear()
    assert run(source, "--out", out) == 0
    assert [row["image_name"] for row in read(out)] == [f"m{i}.png" for i in range(6)] and len(judged) == 3
    judged.clear()
    assert run(source, "--out", out) == 0 and judged == []


def test_problems_and_new_memes_are_tried_again(judged, tmp_path):
    source, out = write(tmp_path / "data", "a.png", "c.png"), tmp_path / "out.csv"
    (source / "b.png").write_bytes(b"no picture")
    assert run(source, "--out", out) == 0
    assert [bool(row["problem"]) for row in read(out)] == [False, True, False]
    (source / "b.png").write_bytes(picture(5))
    write(source, "0.png")
    judged.clear()
    assert run(source, "--out", out) == 0
    assert [(row["image_name"], row["problem"]) for row in read(out)] == [
        ("a.png", ""), ("c.png", ""), ("0.png", ""), ("b.png", ""),
    ]  # fmt: skip
    assert len(judged) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"image_name,sentence,label\r\na.png,x,offensive\r\n", "not a file of predict-folder"),
        (b"my notes", "not a file of predict-folder"),
        (folder._HEADER.encode() + b"a.png,x\r\n", "not a file of predict-folder"),
        (folder._HEADER.encode() + b"\xff,,,,,,0123,\r\n", "not a file of predict-folder"),
        (
            folder._HEADER.encode() + b"a.png,,none,offensive,1,0.4,9876,\r\n",
            "its rows are of model 9876, the bundle is",
        ),
    ],
)
def test_other_files_are_not_changed(judged, tmp_path, capsys, content, sentence):
    source, out = write(tmp_path / "data", "a.png"), tmp_path / "out.csv"
    out.write_bytes(content)
    assert run(source, "--out", out) == 2
    assert out.read_bytes() == content and judged == []
    assert sentence in (said := capsys.readouterr().err) and "give another name" in said and str(out) in said


def test_memes_fill_batches(judged, classifier, tmp_path, monkeypatch):
    enough = 4 * (cores() + 1)
    source = write(tmp_path, *(f"m{i}.png" for i in range(enough)))
    classifier.may_run.clear()
    usual = Predictor.begin

    def begin(self: Predictor, meme: Meme, name: str) -> Any:
        begun = usual(self, meme, name)
        if len(judged) >= enough:
            classifier.may_run.set()  # the model begins when a batch for each lane, and one more, has been handed over
        return begun

    monkeypatch.setattr(Predictor, "begin", begin)
    assert run(source, "--batch", 4) == 0
    assert 4 in [size for kind, size in classifier.encoded if kind == "image"]


def test_a_model_failure_is_a_problem_of_that_meme(judged, classifier, tmp_path, capsys):
    classifier.broken = RuntimeError("out of memory")
    assert run(write(tmp_path, "a.png")) == 2
    assert "the model failed" in rows_of(capsys.readouterr().out)[0]["problem"]
