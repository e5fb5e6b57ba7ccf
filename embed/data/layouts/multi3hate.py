"""Multi3Hate: the same memes in five languages, with labels from five countries in another table."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from embed.base.errors import DatasetError, RowError
from embed.data.columns import Columns
from embed.data.layouts.reading import Fields, Reading, answers_in
from embed.data.tables import Row

_COUNTRIES = ("US", "DE", "MX", "CN", "IN")
_ANSWERS = "final_annotations.csv"


def recognise(folder: Path) -> bool:
    """Whether it is the published folder, or `data/memes/<language>` of it."""
    return (_tables(folder) / _ANSWERS).is_file()


def rows(reading: Reading) -> Iterator[Row | RowError]:
    """The memes of one language, English by default; the majority of the countries counts, or LABEL=<country>."""
    place = _tables(reading.folder)
    language = reading.folder.name if reading.folder.parent.name == "memes" else "en"
    picked = reading.choices.given_columns.get("label")
    if picked and picked not in _COUNTRIES:
        raise DatasetError(f"LABEL={picked}: not a country of Multi3Hate; it has {', '.join(_COUNTRIES)}")
    countries = (picked,) if picked else _COUNTRIES
    labelled = answers_in(place / _ANSWERS, Columns({"image": "Meme ID"} | {name: name for name in countries}))
    answers = {fields["image"]: [fields.get(name) for name in countries] for fields in labelled}
    reading.understood.note(
        f"labels of {', '.join(countries)}, memes in {language}; another language: DATA={place}/memes/<language>"
    )

    def change(fields: Fields) -> Fields:
        number, template = fields["image"], fields["template"]
        text = f"{fields.get('text') or ''}".replace("<sep>", "\n")
        picture = {"image": f"{template}/{number}.jpg", "folders": (_memes(reading.folder, place, language),)}
        return fields | picture | {"id": f"{language}/{number}", "text": text, "label": answers.get(number)}

    columns = {
        "image": "Meme ID",
        "template": "Template Name",
        "text": "Original (English)" if language == "en" else "Translation",
    }
    yield from _without_label(reading).table(place / "captions" / f"{language}.csv", "train", columns, change)


def _without_label(reading: Reading) -> Reading:
    """The captions have no column for the label that the user picks."""
    return replace(reading, choices=replace(reading.choices, label=""))


def _memes(folder: Path, place: Path, language: str) -> str:
    memes = place / "memes" / language
    return memes.relative_to(folder).as_posix() if folder in memes.parents else ""


def _tables(folder: Path) -> Path:
    """The folder of the tables, for the published folder or that of one language's memes."""
    if folder.parent.name == "memes":
        return folder.parent.parent
    return folder / "data" if (folder / "data").is_dir() else folder
