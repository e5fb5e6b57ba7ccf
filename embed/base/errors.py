"""What is wrong with a data set, with one row of it, or by the word of a library, in a sentence for the user."""

from dataclasses import dataclass


class DatasetError(ValueError):
    """The folder cannot be read as a data set; the message names the file, the row and the fix."""


@dataclass(frozen=True)
class RowError:
    """What is wrong with one row, as a sentence with the fix; where: file and row."""

    where: str
    reason: str


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that some libraries add; its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
