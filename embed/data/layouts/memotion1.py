"""Memotion 1 (SemEval-2020 task 8): four scales, two columns of text, test labels as digits elsewhere."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.columns import Columns
from embed.data.layouts.reading import Fields, Reading, answers_in, below, header_of
from embed.data.tables import Row
from embed.data.values import is_missing

_TRAIN, _TEST, _ANSWERS = "labels.csv", "2000_testdata.csv", "Meme_groundTruth.csv"
# Of `0_1010`: sentiment, then humour, sarcasm, offensive, motivational.
_OFFENSIVE = 2


def recognise(folder: Path) -> bool:
    """Whether there is the training table, with its two columns of text."""
    return {"image_name", "text_ocr", "text_corrected"} <= header_of(below(folder, _TRAIN))


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows; a text without a correction is as the reader of words had it."""
    if train := below(reading.folder, _TRAIN):
        columns = {"text": "text_corrected", "as_read": "text_ocr", "label": "offensive"}
        yield from reading.table(train, "train", columns, _one_text)
    if test := below(reading.folder, _TEST):
        answers = _answers(below(reading.folder, _ANSWERS))
        reading.understood.note(f"{test.name}: {len(answers)} labels are in {_ANSWERS}")

        def change(fields: Fields) -> Fields:
            return _one_text(fields) | {"label": answers.get(f"{fields['image']}".strip())}

        yield from reading.table(test, "test", {"text": "corrected_text", "as_read": "OCR_extracted_text"}, change)


def _one_text(fields: Fields) -> Fields:
    text = fields.get("text")
    return fields | {"text": fields.get("as_read") if is_missing(text) else text}


def _answers(file: Path | None) -> dict[str, str]:
    rows = answers_in(file, Columns({"label": "Labels"}))
    found = {f"{fields.get('image')}".strip(): fields.get("label") for fields in rows}
    return {
        name: f"{label}".partition("_")[2][_OFFENSIVE : _OFFENSIVE + 1]
        for name, label in found.items()
        if "_" in f"{label}"
    }
