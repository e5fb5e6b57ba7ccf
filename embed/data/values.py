"""Check the values of table cells: what is missing, what is a text, what is a name."""

import math
from typing import Any

from embed.base.text import MAX_TEXT, clean_text

# What spreadsheets, pandas and R write for a missing value.
_MISSING = frozenset(("", "nan", "NaN", "NAN", "None", "NONE", "null", "NULL", "N/A", "n/a", "#N/A", "NA", "<NA>"))


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, an empty cell or a word for it."""
    if isinstance(value, str):
        return value.strip() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: Any) -> str:
    """A cell as the text of a meme, cleaned, "" if missing. Raises ValueError for anything but a string."""
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the text must be a string, got {_kind(value)}")  # noqa: TRY004
    if len(value) > MAX_TEXT:
        raise ValueError(f"a text of {len(value):,} characters, the limit is {MAX_TEXT:,}")
    return clean_text(value)


def as_name(value: Any, field: str) -> str:
    """A cell as an id or a picture's name, "" if missing; a whole number is one as well. Raises ValueError."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value}"
    if not isinstance(value, str):
        raise ValueError(f"the {field} must be a string, got {_kind(value)}")  # noqa: TRY004
    return clean_text(value)


def _kind(value: Any) -> str:
    kinds = ((bool, "a boolean"), (list, "a list"), (dict, "an object"), ((int, float), "a number"))
    name = next((name for kind, name in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
    shown = repr(value)
    return f"{name}: {shown if len(shown) <= 40 else shown[:40] + '...'}"
