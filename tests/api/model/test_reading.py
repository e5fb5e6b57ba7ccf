"""Words that an earlier run read are taken, in the language of the training memes; the number of OCR threads."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.model import reading
from api.model.loading import make_reader
from api.model.reading import LazyTextReader
from api.settings import ServeSettings
from cache import Layout, content_key
from embed.ocr.readings import Readings
from embed.ocr.recognisers import OcrUnavailable, Recogniser


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Recogniser]]:
    """What each engine was made with; they read a picture's bytes."""
    made: list[tuple[int, Recogniser]] = []

    class Engine:
        def __init__(self, threads: int, recogniser: Recogniser) -> None:
            made.append((threads, recogniser))

        def read(self, data: bytes) -> str:
            return data.decode()

    monkeypatch.setattr(reading, "TextReader", Engine)
    return made


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 2)])
def test_ocr_uses_at_most_two_threads(
    cores: int, threads: int, engines: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "cores", lambda: cores)
    reader = LazyTextReader(tmp_path / "absent")
    assert [reader.read(b"one"), reader.read(b"two")] == ["one", "two"]
    assert engines == [(threads, Recogniser())] and not (tmp_path / "absent").exists()


def test_what_make_embed_has_read_is_not_read_again(engines: list[Any], tmp_path: Path) -> None:
    earlier = Readings(Layout(tmp_path).readings)
    earlier.add(content_key(b"known"), "its words")
    earlier.add(content_key(b"blank"), "")
    earlier.add(content_key(b"broken"), problem="could not be read")
    reader = LazyTextReader(tmp_path)
    assert [reader.read(b"known"), reader.read(b"blank")] == ["its words", ""] and not engines
    assert reader.read(b"broken") == "broken"  # tried again, which says why it cannot be read
    assert (reader.earlier, reader.now) == (2, 1)


def test_each_language_has_its_readings(engines: list[Any], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.ocr_models.mkdir()
    (layout.ocr_models / "korean.onnx").write_bytes(b"a model")
    Readings(layout.readings).add(content_key(b"meme"), "by the carried model")
    assert LazyTextReader(tmp_path, "korean").read(b"meme") == "meme"
    assert [made[1].language for made in engines] == ["korean"]
    assert LazyTextReader(tmp_path, "en").read(b"meme") == "by the carried model"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of memes that were read with a Korean model."""
    config = tmp_path / "bundle" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"format": 2, "data": {"ocr_lang": "korean"}}))
    return config.parent


def test_the_server_reads_in_the_language_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "ocr").mkdir()
    (tmp_path / "ocr" / "korean_PP-OCRv5_rec_mobile.onnx").write_bytes(b"a model")
    made = make_reader(ServeSettings(bundle, artifacts=tmp_path))
    assert made is not None and " korean " in made.engine and made.progress() == ""
    other = make_reader(ServeSettings(bundle, artifacts=tmp_path, ocr_lang="latin"))
    assert other is not None and "korean" not in other.engine
    (bundle / "config.json").write_text('{"format": 2, "data": {}}')  # an older one
    older = make_reader(ServeSettings(bundle, artifacts=tmp_path))
    assert older is not None and older.engine == other.engine


def test_a_server_without_the_model_says_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OcrUnavailable, match="OCR_LANG=korean: no model here reads it.*into .*/ocr/"):
        make_reader(ServeSettings(bundle, artifacts=tmp_path))
    assert make_reader(ServeSettings(bundle, artifacts=tmp_path, ocr="off")) is None
