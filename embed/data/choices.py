"""What the user says about a data set beyond its folder, remembered beside the dataset indexes."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cache import write_text_atomically
from embed.base.errors import DatasetError
from embed.data.columns import FIELDS


@dataclass(frozen=True)
class Choices:
    """Settings of one data set, all "" by default.

    images: folder or URL of the pictures; links: folder that links may lead into; columns: `image=media.path,text=...`;
    label: the label's column; positive: words of the label that count as offensive, separated by commas.
    """

    images: str = ""
    links: str = ""
    columns: str = ""
    label: str = ""
    positive: str = ""

    @property
    def given_columns(self) -> dict[str, str]:
        """{field: column}. Raises DatasetError for what is not `field=column`."""
        given: dict[str, str] = {}
        for pair in filter(None, map(str.strip, self.columns.split(","))):
            ours, equals, theirs = (part.strip() for part in pair.partition("="))
            if not equals or not theirs or ours not in FIELDS:
                raise DatasetError(f"COLUMNS: {pair!r} is not <field>=<column> with a field of {', '.join(FIELDS)}")
            given[ours] = theirs
        if self.label and given.get("label", self.label) != self.label:
            raise DatasetError(f"LABEL={self.label} and COLUMNS name two label columns; give one of them")
        return given | ({"label": self.label} if self.label else {})

    @property
    def positive_words(self) -> list[str]:
        """The words of `positive`."""
        return [word.strip() for word in self.positive.split(",") if word.strip()]


CHOICES = tuple(f.name for f in fields(Choices))


def remembered(file: Path, given: Mapping[str, str | None]) -> tuple[Choices, list[str]]:
    """The choices of this run, and those that were taken from an earlier one, as `IMAGES=...`.

    given: {name: value, "" to forget an earlier one, or None for what is not given now}.
    """
    try:
        earlier = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        earlier = {}
    kept = {
        name: value
        for name, value in (earlier.items() if isinstance(earlier, dict) else ())
        if name in CHOICES and isinstance(value, str) and value and given.get(name) is None
    }
    now = {name: value for name, value in given.items() if value}
    return Choices(**(kept | now)), [f"{name.upper()}={value}" for name, value in kept.items()]


def recall(file: Path, data: str, given: object, say: Callable[[str], None]) -> Choices:
    """The choices in the attributes of `given`, completed by those of an earlier run with this data, which is said."""
    choices, kept = remembered(file, {name: getattr(given, name) for name in CHOICES})
    if kept:
        say(f"as given before for {data}: {', '.join(kept)}")
    return choices


def remember(file: Path, choices: Choices) -> None:
    """Write the choices for the next run. Raises OSError."""
    if choices != Choices():
        write_text_atomically(file, json.dumps(asdict(choices)))
    else:
        file.unlink(missing_ok=True)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each choice, None where it is not given."""
    helps = {
        "images": "folder or URL of the pictures, such as s3://bucket/memes",
        "links": "folder that links among the pictures may lead into, such as a hub's blobs",
        "columns": "columns of the table, such as image=media.path,text=caption,label=annotation.offensive",
        "label": "the column of the label",
        "positive": "words of the label that count as offensive, separated by commas; all others do not",
    }
    for name, text in helps.items():
        parser.add_argument(f"--{name}", help=f"{text}; remembered with the data, '' forgets it")
