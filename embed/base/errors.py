"""Errors of a data set and of single rows, as one sentence for the user."""

from dataclasses import dataclass


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


@dataclass(frozen=True)
class RowError:
    """An error in one row; reason: one sentence with the fix; where: file and row."""

    where: str
    reason: str


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that some libraries add; its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
