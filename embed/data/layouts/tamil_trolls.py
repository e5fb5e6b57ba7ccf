"""Tamil troll memes: the label is the beginning of the file's name, `troll_` or `Not_troll_`."""

from collections.abc import Iterator
from pathlib import Path

from embed.base.errors import RowError
from embed.data.layouts.reading import Fields, Reading, answers_in, header_of
from embed.data.tables import Row

_TRAIN, _TEST, _ANSWERS = "train_captions.csv", "test_captions.csv", "gold_labels_for_test.csv"


def recognise(folder: Path) -> bool:
    """Whether there is the training table without a label."""
    return {"imagename", "captions"} <= header_of(folder / _TRAIN if (folder / _TRAIN).is_file() else None)


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The rows; the labels of the test memes are in a file of their own."""
    yield from reading.table(reading.folder / _TRAIN, "train", change=_by_name)
    if (reading.folder / _TEST).is_file():
        answers = {fields.get("image"): fields.get("label") for fields in answers_in(reading.folder / _ANSWERS)}
        reading.understood.note(f"{_TEST}: {len(answers)} labels are in {_ANSWERS}")

        def change(fields: Fields) -> Fields:
            return (
                _by_name(fields)
                | {"folders": ("test_img",)}
                | ({"label": answers[fields["image"]]} if fields["image"] in answers else {})
            )

        yield from reading.table(reading.folder / _TEST, "test", change=change)


def _by_name(fields: Fields) -> Fields:
    name = f"{fields['image']}".rpartition("/")[2].lower()
    word = "not_troll" if name.startswith(("not_troll", "non_troll")) else "troll" if name.startswith("troll") else None
    return fields | {"label": word, "folders": ("uploaded_tamil_memes",)}
