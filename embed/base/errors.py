"""Errors of a data set and of single rows, as one sentence for the user."""

from dataclasses import dataclass


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


@dataclass(frozen=True)
class RowError:
    """An error in one row; reason: one sentence with the fix; where: file and row."""

    where: str
    reason: str
