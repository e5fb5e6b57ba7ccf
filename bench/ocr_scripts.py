"""Character error of OCR by script, on drawn memes: the carried model, or an added one.

    .venv/bin/pip download --no-deps -d FONTS fontpkg-noto-sans==2.15 fontpkg-noto-sans-arabic==2.12 \\
        fontpkg-noto-sans-devanagari==2.7 manimgx-fonts-cjk==2026.9.26.post1
    python -m bench.ocr_scripts --fonts FONTS                     # the carried model on every script
    python -m bench.ocr_scripts --fonts FONTS --ocr-lang korean   # a model in artifacts/ocr/

Each sentence is drawn twice in Noto Sans Bold, white with a black outline on a coloured pattern: as it is, and in
capitals where the script has them. Fonts are read from the wheels; a script without its font is left out. Error: edits
over the reference's length, pooled; `as written` with spaces as one, `letters` in small letters without spaces and
punctuation.
"""

import argparse
import io
import sys
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.machine import describe, print_json, say
from bench.ocr import edits
from cache import Layout, cores
from embed.ocr.reader import TextReader
from embed.ocr.recognisers import find_recogniser

_LATIN, _ARABIC, _INDIC = (
    "NotoSans[wdth,wght].ttf",
    "NotoSansArabic[wdth,wght].ttf",
    "NotoSansDevanagari[wdth,wght].ttf",
)
_CJK = "NotoSansCJK-VF.otf.ttc"
_SIZE, _LETTER, _MARGIN = (640, 480), 44, 20


@dataclass(frozen=True)
class Script:
    """Sentences of a script. font: its file; face: number within a collection."""

    sentences: tuple[str, ...]
    font: str = _LATIN
    face: int = 0


SCRIPTS = {
    "Latin": Script(
        (
            "when you finally fix the bug and three more appear",
            "nobody asked but here is my opinion anyway",
            "me explaining to my cat why we cannot eat at midnight",
            "one does not simply read the manual",
            "that moment when the coffee runs out before noon",
        )
    ),
    "Latin with accents": Script(
        (
            "quand le café est déjà fini à huit heures, ça fait mal",
            "wenn der Wecker klingelt und du fünf Minuten länger schläfst",
            "mañana empiezo la dieta, dijo el señor año tras año",
            "kiedy żółta łódź płynie, a ty śpisz jeszcze godzinę",
            "když přijde pondělí a šéf chce všechno hned",
            "işe geç kaldığımda söylediğim ilk şey",
            "khi bạn nhớ ra hôm nay là thứ hai",
        )
    ),
    "Cyrillic": Script(
        (
            "когда наконец исправил ошибку а появились три новых",
            "никто не спрашивал но вот моё мнение",
            "коли кава закінчилась ще до обіду",
            "объясняю коту почему нельзя есть ночью",
            "понедельник начинается в субботу",
        )
    ),
    "Greek": Script(
        (
            "όταν τελειώνει ο καφές πριν το μεσημέρι",
            "κανείς δεν ρώτησε αλλά να η γνώμη μου",
            "εξηγώ στη γάτα γιατί δεν τρώμε τα μεσάνυχτα",
            "δευτέρα πρωί και όλα πάνε στραβά",
        )
    ),
    "Arabic": Script(
        (
            "عندما تنتهي القهوة قبل الظهر",
            "لم يسأل أحد ولكن هذا رأيي",
            "أشرح لقطتي لماذا لا نأكل في الليل",
            "صباح الاثنين وكل شيء يسير بشكل خاطئ",
        ),
        _ARABIC,
    ),
    "Devanagari": Script(
        (
            "जब दोपहर से पहले कॉफी खत्म हो जाए",
            "किसी ने नहीं पूछा लेकिन मेरी राय यह है",
            "बिल्ली को समझाते हुए कि रात में खाना नहीं मिलेगा",
            "सोमवार की सुबह और सब कुछ गलत",
        ),
        _INDIC,
    ),
    "Chinese": Script(
        ("当你终于修好一个错误又出现三个", "没有人问但这是我的意见", "向猫解释为什么半夜不能吃饭", "星期一早上一切都不顺利"),
        _CJK,
        2,
    ),
    "Japanese": Script(
        ("やっとバグを直したら三つ増えた", "誰も聞いていないけど私の意見です", "夜中に食べられない理由を猫に説明する", "月曜日の朝はコーヒーが足りない"),
        _CJK,
    ),
    "Korean": Script(
        ("점심 전에 커피가 다 떨어졌을 때", "아무도 묻지 않았지만 내 의견은 이렇다", "고양이에게 밤에 먹으면 안 되는 이유를 설명하는 나", "월요일 아침에는 모든 것이 잘못된다"),
        _CJK,
        1,
    ),
}  # fmt: skip


def main() -> int:
    """Read every script; print the table and the JSON line."""
    args = _parser().parse_args()
    layout = Layout(args.artifacts)
    reader = TextReader(cores(), find_recogniser(args.ocr_lang, layout.ocr_models))
    results = {}
    for name, script in SCRIPTS.items():
        font = _font(args.fonts, script)
        if font is None:
            say(f"{name}: {script.font} is in none of the wheels of {args.fonts}/; it is left out")
            continue
        results[name] = _measure(reader, script, font)
        print(f"{name:20}{results[name]['as written']:9.1%}{results[name]['letters']:9.1%}", flush=True)
    print_json({"benchmark": "ocr_scripts", "engine": reader.engine, "machine": describe(), "results": results})
    return 0


def _measure(reader: TextReader, script: Script, font: ImageFont.FreeTypeFont) -> dict[str, float | int | str]:
    texts = list(dict.fromkeys(text for sentence in script.sentences for text in (sentence, sentence.upper())))
    pairs = [(text, reader.read(drawn(text, font, number))) for number, text in enumerate(texts)]
    exact = [(" ".join(a.split()), " ".join(b.split())) for a, b in pairs]
    letters = [(_letters(a), _letters(b)) for a, b in pairs]
    errors = {name: _error(each) for name, each in (("as written", exact), ("letters", letters))}
    return {**errors, "memes": len(pairs), "first": pairs[0][1]}


def _error(pairs: list[tuple[str, str]]) -> float:
    return round(sum(edits(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs), 4)


def _letters(text: str) -> str:
    """Small letters, their marks and digits."""
    return "".join(
        sign for sign in unicodedata.normalize("NFC", text.lower()) if unicodedata.category(sign)[0] in "LMN"
    )


def drawn(text: str, font: ImageFont.FreeTypeFont, seed: int) -> bytes:
    """A PNG of a patterned picture with the text at its top, wrapped."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (6, 8, 3), np.uint8)
    page = Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(page)
    lines = _wrapped(text, font, pen)
    place = (_SIZE[0] // 2, _MARGIN)
    pen.multiline_text(
        place, lines, "white", font, anchor="ma", align="center", spacing=12, stroke_width=3, stroke_fill="black"
    )
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _wrapped(text: str, font: ImageFont.FreeTypeFont, pen: ImageDraw.ImageDraw) -> str:
    """At spaces, where there are any."""
    apart = " " if " " in text else ""
    lines = [""]
    for part in text.split(apart) if apart else text:
        longer = f"{lines[-1]}{apart}{part}" if lines[-1] else part
        if pen.textlength(longer, font) <= _SIZE[0] - 2 * _MARGIN:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _font(folder: Path, script: Script) -> ImageFont.FreeTypeFont | None:
    """The bold font from one of the wheels."""
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == script.font:
                    font = ImageFont.truetype(io.BytesIO(archive.read(name)), _LETTER, script.face)
                    font.set_variation_by_name("Bold")
                    return font
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ocr_scripts", description="Character error of OCR by script."
    )
    parser.add_argument("--fonts", type=Path, required=True, help="folder with the wheels of the fonts")
    parser.add_argument("--ocr-lang", default="", help="as of python -m embed (default: the carried model)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where added models are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
