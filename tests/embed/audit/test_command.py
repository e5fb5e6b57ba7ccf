"""The audit: what is odd about a data set is found, named with its row, and shown; what is not odd is left alone."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import memes, write_multioff
from PIL import Image

import embed.audit.command
import embed.clip.tokenizer
import embed.data.near_duplicates
from embed.audit.command import main
from embed.data.near_duplicates import differing_bits, near_texts, picture_hash, words

LABEL_ADVICE = (
    "write offensive or non-offensive (or 1 or 0), or say which words count as offensive: POSITIVE='word,word'"
)

Audit = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token per word, and one at each end; a context of 5."""

    def load(model: str) -> SimpleNamespace:
        return SimpleNamespace(context_length=5, count=lambda text: len(text.split()) + 2)

    monkeypatch.setattr(embed.clip.tokenizer, "load_tokenizer", load)


@pytest.fixture
def audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Audit:
    """Audit tmp_path/data and return the JSON object."""

    def run() -> dict[str, Any]:
        assert main([str(tmp_path / "data"), "--artifacts", str(tmp_path / "artifacts"), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with large shapes and sharp edges, as memes have, and unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def save(picture: Image.Image, path: Path, format: str = "PNG", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format, **options)


def table(data: Path, rows: list[str]) -> None:
    data.mkdir(exist_ok=True)
    (data / "memes.csv").write_text("\n".join(["image,text,label,split,id", *rows]), encoding="utf-8")


def test_every_finding_names_its_rows_and_no_others(tmp_path: Path, audit: Audit) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(("a", "b", "c", "d", "e", "f")):
        save(scene(number), data / f"{name}.png")
    (data / "b-copy.png").write_bytes((data / "b.png").read_bytes())
    save(scene(2), data / "c-again.jpg", "JPEG", quality=60)
    (data / "cut.png").write_bytes((data / "a.png").read_bytes()[:900])
    save(Image.fromarray(np.full((9, 9), 60_000, np.uint16)), data / "deep.png")
    save(Image.new("RGB", (9, 9), "red"), data / "red.png")
    table(
        data,
        [
            "a.png,zero words here,1,train,one",
            "b.png,something about cats,1,train,two",
            "b-copy.png,another about dogs,0,test,three",
            "c.png,what a fine day for a walk,0,train,four",
            "c-again.jpg,why nobody came,0,train,five",
            "gone.png,who took it,1,train,six",
            "cut.png,this one is broken,1,train,seven",
            "deep.png,sixteen bits,1,train,eight",
            "red.png,only red,0,train,nine",
            "d.png,no label that we know,maybe,train,ten",
            "d.png,nor this one,perhaps,later,eleven",
            "e.png,,0,validation,twelve",
            "e.png,Something about CATS!,0,validation,two",
            "f.png,why nobody came,0,test,thirteen",
        ],
    )
    found = audit()
    assert [(row["where"], row["reason"]) for row in found["findings"]["refused_rows"]["rows"]] == [
        (
            "memes.csv, row 11",
            f"unknown label 'maybe'; {LABEL_ADVICE}",
        ),
        ("memes.csv, row 12", "unknown split 'later'; write train, validation or test"),
        (
            "memes.csv, row 12",
            f"unknown label 'perhaps'; {LABEL_ADVICE}",
        ),
    ]
    rows = {name: [row["id"] for row in f["rows"]] for name, f in found["findings"].items() if f["rows"]}
    del rows["refused_rows"]
    assert rows == {
        "missing_pictures": ["six"],
        "unreadable_pictures": ["seven"],
        "changed_pictures": ["eight"],
        "blank_pictures": ["eight", "nine"],
        "empty_texts": ["twelve"],
    }
    groups = {
        name: [([meme["id"] for meme in group["memes"]], group["splits"], group["conflict"]) for group in f["groups"]]
        for name, f in found["findings"].items()
        if f["groups"]
    }
    assert groups == {
        "repeated_ids": [(["two", "two"], ["train", "validation"], True)],
        "same_pictures": [
            (["two", "three"], ["train", "test"], True),
            (["twelve", "two"], ["validation"], False),
        ],
        "near_pictures": [(["four", "five"], ["train"], False)],
        "same_texts": [(["five", "thirteen"], ["train", "test"], False)],
        "near_texts": [(["two", "two"], ["train", "validation"], True)],
    }
    assert found["rows"] == 14
    assert found["splits"]["train"] == {"offensive": 5, "non-offensive": 3, "unlabelled": 0}
    lengths = {"texts": 11, "context_length": 5, "cut": 2, "median_tokens": 5, "max_tokens": 9}
    assert found["text_lengths"] == lengths


def test_rows_without_a_label(tmp_path: Path, audit: Audit) -> None:
    save(scene(0), tmp_path / "data" / "a.png")
    rows = '{"img": "a.png", "text": "hi", "id": 7}\n[1]\n{"img": "a.png", "text": "ho", "label": 1}\n'
    (tmp_path / "data" / "test.jsonl").write_text(rows, "utf-8")
    findings = audit()["findings"]
    assert [row["id"] for row in findings["unlabelled"]["rows"]] == ["7"]
    assert findings["refused_rows"]["rows"][0]["reason"] == "not a JSON object"


def test_a_plain_data_set_has_nothing_odd(tmp_path: Path, audit: Audit) -> None:
    write_multioff(tmp_path / "data", memes(9))
    found = audit()
    assert not any(finding["count"] for finding in found["findings"].values())
    assert "Nothing odd was found" in Path(found["page"]).read_text("utf-8")


def test_the_screen_counts_first_and_lists_twenty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    save(scene(0), data / "ok.png")
    table(data, ["ok.png,fine,1,train,0", *(f"lost{n}.png,text {n},1,train,{n}" for n in range(1, 31))])
    assert main([str(data), "--artifacts", str(tmp_path / "artifacts")]) == 0
    out = capsys.readouterr().out
    assert "     30  pictures that are missing" in out
    assert "  30 rows: no such file in the data folder; first 1 (memes.csv, row 3)\n" in out
    page = Path(re.search(r"^page  (.+)$", out, re.MULTILINE)[1])
    assert page.parent == tmp_path / "artifacts" / "audit"
    assert page.read_text("utf-8").count("no such file") == 30


def test_a_picture_with_many_twins_is_one_group(tmp_path: Path, audit: Audit) -> None:
    data = tmp_path / "data"
    for n in range(30):
        save(scene(0), data / f"{n}.png", compress_level=n % 10)
    table(data, [f"{n}.png,words of meme {'abcdefghijklmnopqrstuvwxyzABCD'[n]}{n},1,train,{n}" for n in range(30)])
    found = audit()
    (group,) = found["findings"]["near_pictures"]["groups"]
    assert len(group["memes"]) == 30
    page = Path(found["page"]).read_text("utf-8")
    assert "26 more not shown" in page and len(re.findall("<figure>", page)) < 60


def test_the_page_shows_pictures_and_obeys_no_name(tmp_path: Path, audit: Audit) -> None:
    data = tmp_path / "data"
    evil = "<script>alert(1)</script>"
    for n in range(2):
        save(scene(3, (900, 600)), data / f"'\"><img src=x onerror=alert({n})>.png", compress_level=n)
    names = [f'"\'""><img src=x onerror=alert({n})>.png"' for n in range(2)]
    table(data, [f"{name},{evil} $title {n},{n},train,{evil}{n}" for n, name in enumerate(names)])
    page = Path(audit()["page"]).read_text("utf-8")
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $title 0" in page and "labels conflict" in page
    assert "http" not in page
    thumbnails = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in thumbnails}
    assert sizes == {(240, 160)}


def test_the_page_names_its_facts_as_the_screen_does(tmp_path: Path, audit: Audit) -> None:
    save(scene(3), tmp_path / "data" / "a.png")
    table(tmp_path / "data", ["a.png,,1,train,"])
    page = Path(audit()["page"]).read_text("utf-8")
    assert "<dt>no text</dt><dd>1 row; add OCR=on" in page and "<dt>train</dt>" in page


def test_a_terminal_is_not_sent_what_it_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "data", ['"\x1b]0;owned\x07\n.png",hi,1,train,', f"{'x' * 900}.png,ho,1,train,"])
    main([str(tmp_path / "data"), "--artifacts", str(tmp_path / "artifacts")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b]0;owned" in out
    assert max(map(len, out.splitlines())) < 400


@pytest.mark.parametrize(
    ("make", "row_error"),
    [
        (lambda data: None, "no such folder"),
        (lambda data: data.mkdir(), "no table"),
        (lambda data: table(data, []), "hold no rows"),
        (lambda data: write_multioff(data, memes(1)).joinpath("Labelled Images").rename(data / "x"), None),
    ],
)
def test_exit_codes(
    tmp_path: Path, make: Callable[[Path], Any], row_error: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "data")
    code = main([str(tmp_path / "data"), "--artifacts", str(tmp_path / "artifacts")])
    error = capsys.readouterr().err
    assert code == (2 if row_error else 0)
    assert (row_error or "") in error and "Traceback" not in error


def test_libraries_keep_to_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(embed.audit.command, "limit_threads", lambda: called.append(True))
    assert main([str(tmp_path / "nowhere")]) == 2 and called


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_multioff(tmp_path / "data", memes(3))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embed.audit.command, "decode_stored", interrupt)
    assert main([str(tmp_path / "data"), "--artifacts", str(tmp_path / "artifacts")]) == 130
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("change", "near"),
    [
        (lambda picture: picture.resize((80, 60)), True),
        (lambda picture: picture.convert("L"), True),
        (lambda picture: picture.point(lambda value: value * 0.9 + 12), True),
        (lambda picture: as_jpeg(picture, quality=30), True),
        (lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), False),
        (lambda picture: scene(2), False),
    ],
)
def test_a_hash_outlives_re_encoding_and_nothing_else(change: Callable[[Image.Image], Image.Image], near: bool) -> None:
    one, other = picture_hash(scene(1)), picture_hash(change(scene(1)))
    assert (differing_bits(one, other) <= embed.data.near_duplicates.MAX_BITS) == near


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Feel the Bern", "#FEEL the bern !", True),
        ("one two three four five six seven", "one two three four five six seven eight", True),
        ("one two three four five six seven", "one two three four five 6 7", False),
        ("text 1", "text 2", False),
        ("\u4eca\u65e5\u306f\u5929\u6c17\u304c\u3044\u3044", "\u4eca\u65e5\u306f\u5929\u6c17\u304c\u3044\u3044\u306d", True),
        ("...", "!!!", False),
    ],
)  # fmt: skip
def test_texts_are_compared_by_their_words(one: str, other: str, near: bool) -> None:
    assert (near_texts([words(one), words(other)]) == [[0, 1]]) == near
