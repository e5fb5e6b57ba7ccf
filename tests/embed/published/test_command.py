"""The published data sets: a folder is recognised, and what differs from what is published is said, and nothing else."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import picture, write_multioff

import embed.__main__
from embed.published.command import main
from embed.published.registry import PUBLISHED, Published, PublishedSplit

ROWS = [
    ("b.png", 'two, "quoted"', "offensive"),
    ("a.png", " spaces and \N{SNOWMAN} ", "Non-offensiv"),
    ("gone.png", "over\ntwo lines", "offensive"),
]
SEEN = [{"id": 7, "img": "img/7.png", "label": 1, "text": "x"}, {"id": 8, "img": "img/8.png", "label": 0, "text": "y"}]

Check = Callable[..., tuple[int, dict[tuple[str, str], str]]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rows_hash(rows: list[list[str | int]]) -> str:
    return sha256("\n".join(json.dumps(row) for row in rows).encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in MultiOFF's layout whose last picture is missing."""
    data = write_multioff(tmp_path / "data", ROWS)
    (data / "Labelled Images" / "gone.png").unlink()
    return data


@pytest.fixture
def published(folder: Path) -> list[Published]:
    """That folder as it is now, with a second split of which only counts are known; and JSON lines in a zip file."""
    table = "Split Dataset/Training_meme_dataset.csv"
    pictures = [f"{name} {sha256((folder / 'Labelled Images' / name).read_bytes())}" for name in ("a.png", "b.png")]
    train = PublishedSplit(
        "train",
        table,
        rows=3,
        offensive=2,
        missing=("gone.png",),
        table_hash=sha256((folder / table).read_bytes()),
        rows_hash=rows_hash(
            [
                ["b.png", 'two, "quoted"', 1],
                ["a.png", "spaces and \N{SNOWMAN}", 0],
                ["gone.png", "over\ntwo lines", 1],
            ]
        ),
        pictures_hash=sha256("\n".join(pictures).encode()),
    )
    test = PublishedSplit("test", "Split Dataset/Testing_meme_dataset.csv", rows=1, offensive=1, needed=False)
    seen = PublishedSplit("train", "train.jsonl", rows=2, missing=())
    return [
        Published("Small", "what", ("where",), "terms", ("layout",), (train, test), "remark"),
        Published("Zipped", "what", ("where",), "terms", ("layout",), (seen,), "remark", (sha256(zipped()),)),
    ]


@pytest.fixture
def check(folder: Path, published: list[Published], capsys: pytest.CaptureFixture[str]) -> Check:
    """The exit code, and {(split, what): the rest of its line}."""

    def run(path: Path = folder) -> tuple[int, dict[tuple[str, str], str]]:
        code = main([str(path)], published)
        lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
        return code, {(line[:13].strip(), line[13:26].strip()): line[26:] for line in lines}

    return run


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("data/train.jsonl"), "{}")
    return buffer.getvalue()


def verdicts(lines: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """The lines that say something other than as published."""
    return {key: line[:24].strip() for key, line in lines.items() if not line.startswith("as published")}


def test_an_untouched_folder_is_as_published(check: Check) -> None:
    code, lines = check()
    assert code == 0
    assert verdicts(lines) == {("test", "table"): "not needed"}
    assert lines["train", "pictures"].endswith("2 here, 1 missing: 'gone.png'")


@pytest.mark.parametrize(
    "resave",
    [
        lambda data: data.replace(b"\r\n", b"\n"),
        lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"offensive\r\n", b'"offensive"\r\n'),
    ],
    ids=["LF", "CRLF everywhere", "byte-order mark", "quotes"],
)
def test_a_table_saved_anew_has_the_same_rows(check: Check, folder: Path, resave: Callable[[bytes], bytes]) -> None:
    table = folder / "Split Dataset" / "Training_meme_dataset.csv"
    before = table.read_bytes()
    table.write_bytes(resave(before))
    assert table.read_bytes() != before
    code, lines = check()
    assert code == 0
    assert verdicts(lines)["train", "table"] == "same rows, other bytes"


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (b"two,", b"too,", {"table"}),
        (b"Non-offensiv", b"offensive", {"table", "offensive"}),
        (b"Non-offensiv", b"maybe", {"table"}),
        (b"a.png", b"z.png", {"table", "pictures", "their bytes"}),
        (b"b.png,", b"b.png,,", {"table", "rows", "offensive", "their bytes"}),
    ],
    ids=["a text", "a label", "an unknown label", "a name", "a row with a field too many"],
)
def test_a_changed_row_differs(check: Check, folder: Path, old: bytes, new: bytes, wrong: set[str]) -> None:
    table = folder / "Split Dataset" / "Training_meme_dataset.csv"
    table.write_bytes(table.read_bytes().replace(old, new, 1))
    code, lines = check()
    assert code == 1
    assert {what for (split, what), verdict in verdicts(lines).items() if verdict == "differs"} == wrong


def test_one_changed_picture_shows_where_its_split_is(check: Check, folder: Path) -> None:
    (folder / "Labelled Images" / "a.png").write_bytes(picture(99))
    code, lines = check()
    assert code == 1
    assert verdicts(lines) == {("train", "their bytes"): "differs", ("test", "table"): "not needed"}


def test_a_picture_that_is_missing_is_named(check: Check, folder: Path) -> None:
    (folder / "Labelled Images" / "a.png").unlink()
    code, lines = check()
    assert code == 1
    assert "1 here, 2 missing: 'a.png', 'gone.png' (no such file" in lines["train", "pictures"]


def test_a_picture_that_nobody_published_differs_too(check: Check, folder: Path) -> None:
    (folder / "Labelled Images" / "gone.png").write_bytes(picture())
    code, lines = check()
    assert code == 1
    assert "3 here, none missing; published: 1 missing: 'gone.png'" in lines["train", "pictures"]


def test_pictures_no_table_names_are_of_no_account(check: Check, folder: Path) -> None:
    (folder / "Labelled Images" / ".DS_Store").write_bytes(b"x")
    assert check()[0] == 0


def test_what_is_not_known_is_shown_and_agrees(check: Check, folder: Path) -> None:
    write_multioff(folder, [("c.png", "three", "offensive")], "Testing")
    code, lines = check()
    assert code == 0
    assert verdicts(lines) == dict.fromkeys(
        [("test", "table"), ("test", "pictures"), ("test", "their bytes")], "not known here"
    )
    table = (folder / "Split Dataset" / "Testing_meme_dataset.csv").read_bytes()
    assert lines["test", "table"].endswith(sha256(table))


def test_a_needed_table_that_is_absent_is_an_error(check: Check, folder: Path, published: list[Published]) -> None:
    train, test = published[0].splits
    published[0] = replace(published[0], splits=(train, replace(test, needed=True)))
    code, lines = check()
    assert code == 1
    assert verdicts(lines) == {("test", "table"): "absent"}


def test_json_lines_are_checked_like_a_table(check: Check, tmp_path: Path) -> None:
    data = tmp_path / "lines"
    (data / "img").mkdir(parents=True)
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SEEN), "utf-8")
    (data / "img" / "7.png").write_bytes(picture(7))
    code, lines = check(data)
    assert code == 1
    assert verdicts(lines)["train", "pictures"] == "differs"
    (data / "img" / "8.png").write_bytes(picture(8))
    code, lines = check(data)
    assert code == 0
    assert lines["train", "rows"].split() == ["as", "published", "2"]
    assert lines["train", "offensive"].split() == ["not", "known", "here", "1"]
    names = [f"img/{n}.png {sha256(picture(n))}" for n in (7, 8)]
    assert lines["train", "their bytes"].endswith(sha256("\n".join(names).encode()))


def test_the_published_zip_file_is_known_by_its_hash(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "hateful_memes.zip"
    path.write_bytes(zipped())
    assert check(path) == (0, {("all", "zip file"): f"{'as published':<24}sha256 {sha256(zipped())}"})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("data/more", "")
    code, lines = check(path)
    assert code == 1
    assert verdicts(lines) == {("all", "zip file"): "differs"}


@pytest.mark.parametrize("name", ["nowhere", ".", "a.csv"])
def test_what_is_none_of_them_is_bad_input(
    name: str, tmp_path: Path, published: list[Published], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("image,text,label\n", "utf-8")
    assert main([str(tmp_path / name)], published) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path / name}: no")


def test_a_table_that_cannot_be_read_is_bad_input(
    folder: Path, published: list[Published], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "Split Dataset" / "Training_meme_dataset.csv").write_bytes(
        "image_name,sentence,label\né".encode("latin-1")
    )
    assert main([str(folder)], published) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_without_a_folder_every_data_set_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert embed.__main__.main(["data"]) == 0
    said = capsys.readouterr().out
    for published in PUBLISHED:
        assert published.name in said and published.terms in said
        assert all(f"{split.name} {split.rows} rows" in said for split in published.splits)
    assert "This project downloads none of these links" in said


def test_the_hashes_that_are_known_are_hashes() -> None:
    splits = [split for published in PUBLISHED for split in published.splits]
    hashes = [h for split in splits for h in (split.table_hash, split.rows_hash, split.pictures_hash) if h is not None]
    hashes += [h for published in PUBLISHED for h in published.archives]
    assert len(hashes) == len(set(hashes)) == 2 * 3 + 4
    assert all(len(h) == 64 and int(h, 16) for h in hashes)
