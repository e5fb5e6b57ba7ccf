"""Reading the words on pictures: what is read, that nothing goes to the network, and that nothing is read twice."""

import builtins
import importlib.metadata
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fakes import FakeEncoder, interrupted, picture, write_multioff
from machine import PATIENCE, until
from PIL import Image, ImageDraw, ImageFont

import embed.clip.encoder
import embed.ocr.reader
import embed.ocr.readings
from bench.ocr import edits, errors
from cache import content_key, read_index, text_key
from embed.__main__ import main
from embed.data.dataset import read_dataset
from embed.job import embed_dataset
from embed.ocr.reader import OcrFailed, OcrUnavailable, TextReader, engine_name
from embed.ocr.readings import Reading, Readings, fill_texts
from embed.pictures.decoding import NotAnImage, UnreadableImage
from embed.pictures.keys import hash_pictures
from embed.plan.settings import EmbedSettings

DEMO = Path("demo/memes")


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader(threads=1)


def written(text: str, colour: str, background: Any, mode: str = "RGB", size: tuple[int, int] = (420, 90)) -> bytes:
    """A PNG with a line of text on it."""
    page = Image.new(mode, size, background)
    ImageDraw.Draw(page).text((20, 20), text, fill=colour, font=ImageFont.load_default(36))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def demo_meme() -> tuple[bytes, str]:
    root, memes = read_dataset(DEMO)
    meme = next(meme for meme in memes if len(meme.text) > 40)
    return (root / meme.image).read_bytes(), meme.text


def test_a_demo_meme_is_read_with_its_words_apart(reader: TextReader) -> None:
    data, sentence = demo_meme()
    assert errors([(sentence, reader.read(data))])["words"] < 0.05


def test_a_blank_picture_has_no_words(reader: TextReader) -> None:
    assert reader.read(written("", "black", "white")) == ""


def test_what_is_transparent_counts_as_white(reader: TextReader) -> None:
    # black letters on transparent black: without the page behind, nothing is to be seen
    assert reader.read(written("nothing behind me", "black", (0, 0, 0, 0), "RGBA")).lower() == "nothing behind me"


def test_lines_are_read_from_top_to_bottom(reader: TextReader) -> None:
    data = written("first line\nsecond line\nthird line", "black", "white", size=(420, 200))
    assert reader.read(data).lower() == "first line second line third line"


def test_red_and_blue_keep_their_places(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(reader, "_engine", lambda pixels: seen.append(pixels) or type("Found", (), {"txts": None}))
    assert reader.read(written("", "black", (250, 10, 20))) == ""
    assert seen[0][0, 0].tolist() == [20, 10, 250]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3000, 2000), (1600, 1067)), ((1600, 900), (1600, 900)), ((100, 50), (320, 160)), ((1, 100), (3, 320))],
)
def test_the_longest_side_is_bounded_both_ways(
    reader: TextReader, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(reader, "_engine", lambda p: shapes.append(p.shape) or type("Found", (), {"txts": ()}))
    reader.read(written("", "black", "white", size=size))
    assert shapes == [(expected[1], expected[0], 3)]


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        *((m, (40, 30)) for m in ("1", "L", "LA", "P", "I;16", "CMYK")),
        ("RGB", (1, 1)),
        ("L", (1, 100)),
        ("RGB", (100, 1)),
    ],
)
def test_odd_pictures_are_read_without_a_fuss(reader: TextReader, mode: str, size: tuple[int, int]) -> None:
    data = picture(size=size, mode=mode, format="TIFF" if mode == "CMYK" else "PNG")
    assert isinstance(reader.read(data), str)


@pytest.mark.parametrize(
    ("data", "error"), [(b"", UnreadableImage), (b"<svg/>", NotAnImage), (picture()[:60], UnreadableImage)]
)
def test_hostile_bytes_are_refused_as_anywhere(reader: TextReader, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        reader.read(data)


def test_a_failing_engine_is_told_from_a_bad_picture(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pixels: np.ndarray) -> None:
        raise IndexError("out of range")

    monkeypatch.setattr(reader, "_engine", fail)
    with pytest.raises(OcrFailed, match="IndexError: out of range"):
        reader.read(picture())


def test_threads_may_share_a_reader(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_slots", threading.Semaphore(3))
    pages = [written(f"{n} of many", "black", "white", size=(200, 60)) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader.read, pages)) == [reader.read(page) for page in pages]


def test_no_more_pictures_at_a_time_than_cores(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, lock = 0, 0, threading.Lock()
    meet = threading.Barrier(2)

    def slow(pixels: np.ndarray) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        meet.wait(PATIENCE)
        with lock:
            under_way -= 1
        return type("Found", (), {"txts": ()})

    monkeypatch.setattr(reader, "_engine", slow)
    monkeypatch.setattr(reader, "_slots", threading.Semaphore(2))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader.read, [picture()] * 8))
    assert most == 2


@pytest.mark.parametrize(("cores", "threads", "most"), [(1, 1, 1), (1, 2, 1), (2, 2, 1), (8, 1, 8), (8, 2, 4)])
def test_there_are_slots_for_as_many_pictures_as_cores_have_threads_for(
    cores: int, threads: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed.ocr.reader, "cores", lambda: cores)
    monkeypatch.setattr(embed.ocr.reader, "_load", lambda _threads, _recogniser: None)
    slots = TextReader(threads)._slots
    assert [slots.acquire(blocking=False) for _ in range(most + 1)] == [True] * most + [False]


def test_a_space_shows_only_where_the_frame_would_be_blank() -> None:
    blank, letter, space = 0, 1, 2
    scores = np.array([[[0.9, 0.0, 0.1], [0.1, 0.7, 0.2], [0.99, 0.0, 0.01], [0.2, 0.1, 0.7]]], np.float32)
    assert embed.ocr.reader._with_spaces(scores).argmax(axis=2).tolist() == [[space, letter, blank, space]]


def test_a_page_of_small_print_is_read_until_the_work_is_enough(
    reader: TextReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = np.array([[[0, y], [200, y], [200, y + 10], [0, y + 10]] for y in range(0, 900, 20)], np.float32)
    assert embed.ocr.reader._affordable(boxes) == 45
    monkeypatch.setattr(embed.ocr.reader, "_MOST_WIDTH", 45)
    assert embed.ocr.reader._affordable(boxes) == embed.ocr.reader._affordable(boxes[:, [3, 0, 1, 2]]) == 2
    assert embed.ocr.reader._affordable(boxes * [10, 1]) == 1
    text = "\n".join(f"line number {n} of this page" for n in range(9))
    read = reader.read(written(text, "black", "white", size=(600, 420)))
    assert read.startswith("line number 0 of") and "number 6" not in read


def test_no_socket_is_opened_and_nothing_printed(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    reader = TextReader(threads=2)
    assert reader.read(demo_meme()[0]) and reader.read(written("", "black", "white")) == ""
    assert capfd.readouterr() == ("", "")


def test_the_engine_is_imported_only_by_making_a_reader() -> None:
    code = "import sys, embed.__main__, embed.ocr.readings; from embed.ocr.reader import engine_name; print(engine_name())\n"
    code += "assert not {'rapidocr', 'onnxruntime', 'cv2', 'torch'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == engine_name() and importlib.metadata.version("rapidocr") in done.stdout


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_a_missing_package_is_a_sentence_with_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OcrUnavailable, match=f"{package}.*not installed: pip install rapidocr onnxruntime.*--ocr off"):
        TextReader(threads=1)


def test_the_engine_has_no_name_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(OcrUnavailable, match="pip install"):
        engine_name()


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("abcd", "bcda", 2)],
)
def test_edits_are_levenshteins(one: str, other: str, count: int) -> None:
    assert edits(one, other) == edits(other, one) == count


def test_joined_words_are_an_error_of_words_and_not_of_letters() -> None:
    assert errors([("Not my dog!", "NOTMY DOG")]) == {"exact": 0.8182, "words": 0.1, "letters": 0.0}


class FakeReader:
    """Reads the sum of a picture's bytes."""

    read_by_all: ClassVar[list[bytes]] = []

    def __init__(self, recogniser: Any = None) -> None:
        pass

    def read(self, data: bytes) -> str:
        FakeReader.read_by_all.append(data)
        Image.open(io.BytesIO(data)).verify() if data.startswith(b"\x89PNG") else _refuse()
        return f"says {sum(data)}"


def _refuse() -> None:
    raise NotAnImage("not an image in a known format")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every picture that the fake engine was given."""
    monkeypatch.setattr(FakeReader, "read_by_all", [])
    monkeypatch.setattr(embed.ocr.readings, "TextReader", FakeReader)
    return FakeReader.read_by_all


Fill = Callable[..., tuple[dict[str, str], Reading]]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Fill tmp_path/data's empty texts: {id: text}, and what that came to."""

    def fill(**options: bool) -> tuple[dict[str, str], Reading]:
        root, memes = read_dataset(tmp_path / "data")
        hashed = hash_pictures(root, ["" if meme.problem else meme.image for meme in memes])
        filled, reading = fill_texts(root, memes, hashed.keys, Readings(tmp_path / "readings"), **options)
        return {meme.id: meme.text for meme in filled}, reading

    return fill


def notes(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "readings").iterdir()
    return file


def wordless(count: int) -> list[tuple[str, str, str]]:
    return [(f"m{n}.png", "", "1") for n in range(count)]


def test_only_empty_texts_are_filled_and_copies_read_once(tmp_path: Path, fill: Fill, reads: list[bytes]) -> None:
    rows = [("a.png", "", "1"), ("b.png", "given", "0"), ("c.png", "  ", "0"), ("gone.png", "", "1")]
    folder = write_multioff(tmp_path / "data", rows) / "Labelled Images"
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "gone.png").unlink()
    said = f"says {sum((folder / 'a.png').read_bytes())}"
    texts, reading = fill()
    assert texts == {"a.png": said, "b.png": "given", "c.png": said, "gone.png": ""} and len(reads) == 1
    assert (reading.empty, reading.filled, reading.pictures, reading.read) == (2, 2, 1, 1)


def test_a_second_run_makes_no_reader(
    tmp_path: Path, fill: Fill, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", wordless(5))
    first, _ = fill()
    monkeypatch.setattr(embed.ocr.readings, "TextReader", None)
    second, reading = fill()
    assert first == second and all(second.values()) and (reading.known, reading.read) == (5, 0)


def test_ctrl_c_keeps_what_is_read(
    tmp_path: Path, fill: Fill, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", wordless(20))
    with monkeypatch.context() as patch:
        patch.setattr(embed.ocr.readings, "cores", lambda: 1)
        patch.setattr(embed.base.threads, "cores", lambda: 1)
        stopped, _ = interrupted(FakeReader().read, at=8)
        patch.setattr(FakeReader, "read", lambda self, data: stopped(data))
        threads = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            fill()
        until(lambda: threading.active_count() <= threads)
    texts, reading = fill()
    # the eighth is lost, and one or two may have been begun beside it
    assert all(texts.values()) and 7 <= reading.known <= 9 and reading.known + reading.read == 20
    assert len(reads) == 20


def test_a_line_that_a_kill_cut_is_read_again(tmp_path: Path, fill: Fill, reads: list[bytes]) -> None:
    write_multioff(tmp_path / "data", wordless(3))
    first, _ = fill()
    notes(tmp_path).write_bytes(notes(tmp_path).read_bytes()[:-9])
    again, reading = fill()
    assert again == first and (reading.known, reading.read) == (2, 1) and len(reads) == 4
    notes(tmp_path).write_bytes(notes(tmp_path).read_bytes() + b'{"text": 3}\n[]\n\xff\xfe\n')
    assert fill()[1].known == 3


def test_a_picture_that_cannot_be_read_leaves_its_text_empty(tmp_path: Path, fill: Fill, reads: list[bytes]) -> None:
    folder = write_multioff(tmp_path / "data", wordless(3)) / "Labelled Images"
    (folder / "m1.png").write_bytes(b"no image")
    for expected in (3, 3):
        texts, reading = fill()
        assert texts["m1.png"] == "" and reading.failed == 1 and reading.filled == 2 and len(reads) == expected
    assert fill(retry_failed=True)[1].failed == 1 and len(reads) == 4


def test_a_file_that_changes_while_it_is_read_is_not_noted(
    tmp_path: Path, fill: Fill, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", wordless(2))
    with monkeypatch.context() as patch:
        patch.setattr(embed.ocr.readings, "read_picture", lambda path: b"something else")
        assert fill()[1].failed == 2 and not reads
    assert fill()[1].read == 2


def test_another_engine_reads_anew(
    tmp_path: Path, fill: Fill, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", wordless(2))
    fill()
    monkeypatch.setattr(embed.ocr.readings, "engine_name", lambda recogniser: "another engine 2.0")
    assert fill()[1].read == 2 and fill()[1].known == 2
    assert (tmp_path / "readings" / "another-engine-2.0.jsonl").is_file()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[bytes]) -> list[str]:
    """The words of `python -m embed` on tmp_path/data with a fake encoder and a fake engine."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_: FakeEncoder(weights))
    return ["--data", str(tmp_path / "data"), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]


def test_the_texts_that_were_read_are_embedded_and_indexed(tmp_path: Path, command: list[str], capsys: Any) -> None:
    data = write_multioff(tmp_path / "data", [*wordless(2), ("x.png", "given", "0")])
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    assert main(command) == 0
    assert read_index(settings.index).source["ocr"] == "" and "texts read" not in capsys.readouterr().out
    assert main([*command, "--ocr"]) == 0
    printed = capsys.readouterr().out
    assert "texts read 2 of 2 empty texts (2 pictures: 0 read before, 2 now in" in printed
    assert f"by {engine_name()}" in printed
    index = read_index(settings.index)
    assert index.source["ocr"] == engine_name() and index.texts[2] == "given"
    read = (data / "Labelled Images" / "m0.png").read_bytes()
    assert index.texts[0] == f"says {sum(read)}" and index.text_keys[0] == text_key(index.texts[0])
    assert index.image_keys[0] == content_key(read) and index.text_tokens[0] == 4


def test_a_run_without_ocr_keeps_what_was_read_and_needs_no_engine(
    tmp_path: Path, command: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch, reads: list[bytes]
) -> None:
    data = write_multioff(tmp_path / "data", wordless(2))
    index = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts").index
    assert main([*command, "--ocr"]) == 0
    texts, engine = read_index(index).texts, engine_name()
    assert all(texts) and len(reads) == 2

    def absent(recogniser: Any) -> str:
        raise OcrUnavailable("not installed")

    monkeypatch.setattr(embed.ocr.readings, "engine_name", absent)
    write_multioff(data, wordless(3))
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 empty texts (3 pictures: 2 read before, 0 now, 1 not read: OCR=on reads them)" in printed
    assert [*read_index(index).texts] == [*texts, ""] and len(reads) == 2
    assert read_index(index).source["ocr"] == engine
    assert main([*command, "--no-ocr"]) == 0
    assert "made with OCR=on" in capsys.readouterr().err
    assert [*read_index(index).texts] == ["", "", ""] and read_index(index).source["ocr"] == ""


def test_the_json_says_what_was_read(tmp_path: Path, command: list[str], capsys: Any) -> None:
    write_multioff(tmp_path / "data", wordless(3))
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ocr"] is None
    assert main([*command, "--json", "--ocr"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ocr"]["filled"] == told["ocr"]["read"] == 3 and told["ocr"]["engine"] == engine_name()
    assert told["embedded"] == {"image": 0, "text": 3}


def test_an_engine_that_is_missing_is_an_error_of_the_user(
    tmp_path: Path, command: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", wordless(1))

    def absent(recogniser: Any) -> None:
        raise OcrUnavailable("not installed: pip install rapidocr onnxruntime")

    monkeypatch.setattr(embed.ocr.readings, "TextReader", absent)
    assert main([*command, "--ocr"]) == 2
    assert capsys.readouterr().err.endswith("error: not installed: pip install rapidocr onnxruntime\n")


def test_the_job_reads_as_the_server_does(tmp_path: Path, reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = demo_meme()
    folder = write_multioff(tmp_path / "data", wordless(1)) / "Labelled Images"
    (folder / "m0.png").write_bytes(data)
    weights = tmp_path / "weights"
    weights.write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_: FakeEncoder(weights))
    settings = EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts", ocr=True)
    embed_dataset(settings, say=lambda note: None)
    assert read_index(settings.index).texts == [reader.read(data)]
