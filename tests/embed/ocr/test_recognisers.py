"""Which model reads a language: the carried one, or a file that the user adds; each with its own readings."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEncoder, write_multioff
from PIL import Image, ImageDraw, ImageFont

import embed.clip.encoder
import embed.ocr.reader
from cache import Layout, read_index
from cache.contents import rebuild_command
from embed.__main__ import main
from embed.ocr.reader import TextReader, engine_name
from embed.ocr.recognisers import CARRIED, OcrUnavailable, Recogniser, find_recogniser
from embed.plan.settings import EmbedSettings


def carried_model() -> Path:
    spec = find_spec("rapidocr")
    assert spec and spec.origin
    return Path(spec.origin).parent / "models" / "PP-OCRv6_rec_small.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of added models: the carried one under another name, and files that are none."""
    models = tmp_path / "artifacts" / "ocr"
    models.mkdir(parents=True)
    (models / "cyrillic_PP-OCRv5_rec_mobile.onnx").symlink_to(carried_model())
    for other in ("ch_PP-OCRv5_det_mobile.onnx", "korean.onnx.part", "notes.txt"):
        (models / other).write_bytes(b"")
    return models


@pytest.mark.parametrize("language", ["", *CARRIED, " EN "])
def test_the_carried_model_has_several_names_and_one_engine(language: str, tmp_path: Path) -> None:
    found = find_recogniser(language, tmp_path / "absent")
    assert found == Recogniser() and engine_name(found) == engine_name()


def test_an_added_model_is_found_by_its_name_and_told_by_its_bytes(folder: Path) -> None:
    found = find_recogniser("Cyrillic", folder)
    assert found.language == "cyrillic" and " cyrillic " in engine_name(found)
    before = engine_name(found)
    (folder / "cyrillic_PP-OCRv5_rec_mobile.onnx").unlink()
    (folder / "cyrillic.onnx").write_bytes(b"another")
    assert engine_name(find_recogniser("cyrillic", folder)) not in (before, engine_name())


def test_other_languages_are_refused_with_those_that_are_here(folder: Path) -> None:
    with pytest.raises(OcrUnavailable) as error:
        find_recogniser("korean", folder)
    assert "expected one of ch, chinese_cht, en, japan, latin, cyrillic. For another" in str(error.value)
    assert str(folder) in str(error.value)


def test_two_files_of_a_language_are_refused(folder: Path) -> None:
    (folder / "cyrillic.onnx").write_bytes(b"")
    with pytest.raises(OcrUnavailable, match=r"cyrillic.onnx and cyrillic_PP-OCRv5.* are both for cyrillic; keep one"):
        find_recogniser("cyrillic", folder)


def test_an_added_model_reads(folder: Path) -> None:
    page = Image.new("RGB", (420, 90), "white")
    ImageDraw.Draw(page).text((20, 20), "two words", fill="black", font=ImageFont.load_default(36))
    page.save(folder / "page.png")
    reader = TextReader(1, find_recogniser("cyrillic", folder))
    assert reader.read((folder / "page.png").read_bytes()) == "two words" and "cyrillic" in reader.engine


@pytest.mark.parametrize("cut", [0, 5, 100_000])
def test_a_file_that_is_no_model_is_named(cut: int, tmp_path: Path) -> None:
    (tmp_path / "korean.onnx").write_bytes(carried_model().read_bytes()[:cut])
    with pytest.raises(OcrUnavailable, match=r"korean.onnx: not a recognition model of RapidOCR in ONNX format \("):
        TextReader(1, find_recogniser("korean", tmp_path))


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:  # RapidOCR would ask the network for its letters
    shutil.copy(carried_model().with_name("PP-OCRv6_det_small.onnx"), tmp_path / "korean.onnx")
    with pytest.raises(OcrUnavailable, match="it names 0 characters for"):
        TextReader(1, find_recogniser("korean", tmp_path))


def test_arabic_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arabic.onnx").write_bytes(b"")
    monkeypatch.setattr(embed.ocr.reader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OcrUnavailable, match="OCR_LANG=arabic needs a further package: .*pip install python-bidi"):
        TextReader(1, Recogniser("arabic", tmp_path / "arabic.onnx"))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of `python -m embed` on a wordless meme in tmp_path/data, with a fake encoder."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_: FakeEncoder(weights))
    write_multioff(tmp_path / "data", [("m.png", "", "1")])
    return ["--data", str(tmp_path / "data"), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]


def test_the_job_reads_in_the_language_and_records_it(tmp_path: Path, folder: Path, command: list[str]) -> None:
    settings = EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts")
    assert main([*command, "--ocr", "--ocr-lang", "cyrillic"]) == 0
    source = read_index(settings.index).source
    assert source["ocr_lang"] == "cyrillic" and source["ocr"] == engine_name(find_recogniser("cyrillic", folder))
    assert rebuild_command(source).endswith(" MODEL=fake OCR=on OCR_LANG=cyrillic")
    assert main([*command, "--ocr"]) == 0
    assert read_index(settings.index).source["ocr_lang"] == ""
    assert len(list(Layout(tmp_path / "artifacts").readings.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ocr", "--ocr-lang", "arabic"], "OCR_LANG=arabic: no model here reads it"),
        (["--ocr-lang", "en"], "OCR_LANG=en says what OCR reads; add OCR=on (--ocr)"),
    ],
)
def test_a_wrong_language_is_refused_before_anything_is_read(
    command: list[str], options: list[str], sentence: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embed.job.read_dataset", lambda *_: pytest.fail("read"))
    assert main([*command, *options]) == 2
    assert sentence in capsys.readouterr().err


def test_pictures_that_are_seen_otherwise_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine_name()
    monkeypatch.setitem(embed.ocr.reader.RULE, "rule", 99)
    assert engine_name() != before
