"""MAMI (SemEval-2022 task 5): tab-separated `.csv`, five label columns, test labels in another file."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import DatasetError, RowError
from embed.data.layouts.reading import Fields, Reading, below, header_of
from embed.data.tables import Row

_LABELS = ("misogynous", "shaming", "stereotype", "objectification", "violence")


def recognise(folder: Path) -> bool:
    """Whether there is a training table with the first label."""
    return {"file_name", "misogynous"} <= header_of(below(folder, "training.csv"))


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows of training and test; LABEL= picks one of the five labels, misogynous by default."""
    picked = reading.choices.given_columns.get("label", _LABELS[0])
    if picked not in _LABELS:
        raise DatasetError(f"LABEL={picked}: not a label of MAMI; it has {', '.join(_LABELS)}")
    if training := below(reading.folder, "training.csv"):
        yield from reading.table(training, "train", {"label": picked})
    if test := below(reading.folder, "Test.csv", "test.csv"):
        answers = _answers(below(reading.folder, "test_labels.txt"), picked)
        reading.understood.note(f"{test.name}: {len(answers)} labels are in test_labels.txt")

        def change(fields: Fields) -> Fields:
            return {"label": answers.get(fields["image"])} | fields

        columns = {"label": picked} if picked in header_of(test) else {}
        yield from reading.table(test, "test", columns, change)


def _answers(file: Path | None, picked: str) -> dict[str, str]:
    lines = [line.split() for line in file.read_text("utf-8").splitlines()] if file else []
    return {words[0]: words[1 + _LABELS.index(picked)] for words in lines if len(words) == 1 + len(_LABELS)}
