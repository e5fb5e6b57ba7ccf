"""Memes by script: what is drawn for the measurement, and where its fonts come from."""

import io
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench import ocr_scripts
from bench.ocr_scripts import SCRIPTS, Script


def test_a_font_is_taken_from_the_wheel_that_has_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("package/files/Other.ttf", b"")
    assert ocr_scripts._font(tmp_path, SCRIPTS["Arabic"]) is None
    assert ocr_scripts._font(tmp_path / "absent", SCRIPTS["Latin"]) is None


def test_long_sentences_are_wrapped_at_spaces_and_else_anywhere() -> None:
    font, pen = ImageFont.load_default(44), ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for text, joint in (("word " * 20, " "), ("字" * 40, "")):
        lines = ocr_scripts._wrapped(text.strip(), font, pen).split("\n")
        assert len(lines) > 1 and joint.join(lines) == text.strip()
        assert max(pen.textlength(line, font) for line in lines) <= 600


def test_the_error_counts_letters_and_their_marks() -> None:
    assert ocr_scripts._letters("Ça, c'est 1 हिन्दी!") == "çacest1हिन्दी"
    assert ocr_scripts._error([("abcd", "abcd"), ("abcd", "")]) == 0.5


def test_what_a_reader_makes_of_each_meme_is_compared_with_its_sentence() -> None:
    class Reader:
        def read(self, data: bytes) -> str:
            assert Image.open(io.BytesIO(data)).size == (640, 480)
            return "two words"

    measured = ocr_scripts._measure(Reader(), Script(("two words",)), ImageFont.load_default(44))  # type: ignore[arg-type]
    assert measured["memes"] == 2 and measured["letters"] == 0 and measured["as written"] == 0.4444
