"""Which model recognises which language: the one in RapidOCR's wheel, or a file that the user has added.

    <artifacts>/ocr/cyrillic_PP-OCRv5_rec_mobile.onnx    makes `cyrillic` a language; the name as RapidOCR gives it
    <artifacts>/ocr/cyrillic.onnx                        likewise

RapidOCR's wheel carries one model, for Latin script with accents, Chinese and Japanese (and Greek without accents). It
has no Cyrillic, Arabic, Devanagari and Korean; nor has another of RapidOCR's packages.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# What the wheel's model is trained for; all of them name the same model.
CARRIED = ("ch", "chinese_cht", "en", "japan", "latin")
_FILE = re.compile(r"([a-z]+(?:_[a-z]+)*)(?:_PP-OCRv\d+_rec\w*)?\.onnx")


class OcrUnavailable(ValueError):
    """The OCR packages, or the model of a language, are missing or incomplete."""


@dataclass(frozen=True)
class Recogniser:
    """A recognition model. language: as the user names it, "" for the wheel's; path: its file, None for the wheel's."""

    language: str = ""
    path: Path | None = None

    def name(self) -> str:
        """Part of an engine's name: "" for the wheel's model, else the language and the file's hash. Raises
        OcrUnavailable."""
        if self.path is None:
            return ""
        try:
            return f"{self.language} {hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]}"
        except OSError as error:
            raise OcrUnavailable(f"{self.path}: cannot be read ({error.strerror})") from error


def find_recogniser(language: str, folder: Path) -> Recogniser:
    """The model for a language, "" for the wheel's. folder: of added files. Raises OcrUnavailable, with what is accepted."""
    language = language.strip().lower()
    if language in ("", *CARRIED):
        return Recogniser()
    added = _added(folder)
    files = added.get(language, [])
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise OcrUnavailable(f"{folder}: {names} are both for {language}; keep one of them")
    if not files:
        raise OcrUnavailable(
            f"OCR_LANG={language}: no model here reads it; expected one of {', '.join((*CARRIED, *added))}. "
            f"For another, put RapidOCR's recognition model into {folder}/, such as cyrillic_PP-OCRv5_rec_mobile.onnx"
        )
    return Recogniser(language, files[0])


def _added(folder: Path) -> dict[str, list[Path]]:
    """{language: files} of the folder, sorted by name."""
    added: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := _FILE.fullmatch(path.name):
            added.setdefault(match[1], []).append(path)
    return added
