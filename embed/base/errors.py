"""What is wrong with a data set, or with one row of it, in a sentence for the user."""

from dataclasses import dataclass


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


@dataclass(frozen=True)
class RowError:
    """What is wrong with one row, as a sentence with the fix; where: file and row."""

    where: str
    reason: str
