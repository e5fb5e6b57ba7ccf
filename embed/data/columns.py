"""Match the columns of a table to the fields of a meme: known names in any spelling, or those the user gives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Known column names, without case and punctuation; of several in a table the first counts. MultiOFF's come first.
KNOWN = {
    "image": (
        *("image_name", "image", "img", "image_path", "img_path", "image_file", "filename", "file_name", "file_path"),
        *("file", "picture", "picture_name", "meme", "meme_name", "name", "path", "media"),
    ),
    "text": (
        *("sentence", "text", "caption", "captions", "text_transcription", "transcription", "text_corrected"),
        *("corrected_text", "ocr", "ocr_text", "text_ocr", "text_on_image", "image_text", "img_text", "meme_text"),
    ),
    "label": (
        *("label", "labels", "class", "offensive", "is_offensive", "hate", "is_hate", "hateful", "is_hateful"),
        *("gold_hate", "misogynous", "toxic", "is_toxic", "harmful", "is_harmful", "gold_label"),
    ),
    "split": ("split", "set_name"),
    "id": ("id", "meme_id"),
    # Not `target`: in machine learning that is usually the label. Not `pc` of the fine-grained Hateful Memes: it has
    # one value per annotator, `gold_pc` the majority's.
    "group": ("group", "subgroup", "target_group", "identity", "protected_category", "gold_pc"),
}
FIELDS = tuple(KNOWN)


@dataclass
class Columns:
    """Finds the fields in the header of a table.

    given: {field: column}, where a dot reaches into nested JSON (`media.path`). The rest is noted while reading:
    found: {field: column as written}; unused: the other columns.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)
    _matched: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def match(self, header: tuple[str, ...], optional: bool = False) -> dict[str, str]:
        """{field: column} of a header. Raises ValueError for a name it has twice, and a given column that it lacks.

        optional: the header is that of one JSON object, where a given column may be absent.
        """
        if header not in self._matched:
            self._matched[header] = columns = self._match(header, optional)
            self.found |= {ours: theirs for ours, theirs in columns.items() if ours not in self.found}
            self.unused |= dict.fromkeys(name for name in header if name.strip() and name not in columns.values())
        return self._matched[header]

    def _match(self, header: tuple[str, ...], optional: bool) -> dict[str, str]:
        plain = [plain_name(name) for name in header]
        columns: dict[str, str] = {}
        for ours, names in KNOWN.items():
            if ours in self.given:
                column = _given_column(self.given[ours], header, plain)
                # a table of test memes may have no labels
                if column is None and not optional and ours != "label":
                    raise ValueError(f"no column {self.given[ours]!r}; it has: {', '.join(header) or 'nothing'}")
                columns |= {} if column is None else {ours: column}
                continue
            known = next((name for name in map(plain_name, names) if name in plain), None)
            if known and plain.count(known) > 1:
                both = [name for name, spelling in zip(header, plain) if spelling == known]
                raise ValueError(f"two columns are called {both[0]}; rename or delete one")
            if known:
                columns[ours] = header[plain.index(known)]
        # a published layout may want more columns than the fields
        extra = {ours: _given_column(name, header, plain) for ours, name in self.given.items() if ours not in KNOWN}
        return columns | {ours: column for ours, column in extra.items() if column is not None}

    def require(self, header: tuple[str, ...], optional: bool = False) -> dict[str, str]:
        """As `match`; raises ValueError also where there is no column for the picture, nor an id, which may be its name."""
        columns = self.match(header, optional)
        if not columns.keys() & {"image", "id"}:
            has = ", ".join(filter(None, header)) or "nothing"
            names = ", ".join(KNOWN["image"])
            raise ValueError(f"no column for image: one of {names}. It has: {has}. COLUMNS='image=<column>' names it")
        return columns


def _given_column(name: str, header: tuple[str, ...], plain: list[str]) -> str | None:
    """The column that the user names, if it is there: as written, in another spelling, or a path into an object."""
    if name in header or name.partition(".")[0] in header:
        return name
    if plain.count(plain_name(name)) == 1:
        return header[plain.index(plain_name(name))]
    return None


def plain_name(name: str) -> str:
    """A column's name without case and punctuation: `Is offensive?` is `isoffensive`."""
    return re.sub(r"[\W_]", "", name.lower())


def fields_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """{field: value} of a row; the column `a.b` reaches into a nested object. None where there is no value."""
    return {ours: row[theirs] if theirs in row else _nested(row, theirs) for ours, theirs in columns.items()}


def _nested(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
