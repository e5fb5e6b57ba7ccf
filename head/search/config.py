"""The settings of a study, and the URL of its storage without the password. Imports no torch, to judge them at once."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_EXPECTED = "storage: expected a URL such as postgresql://user:password@host/database"


@dataclass(frozen=True)
class StudyConfig:
    """storage: an SQLAlchemy URL; study: its name there; trials: the total to reach, earlier runs included. Raises ValueError for
    values out of range or an invalid URL."""

    storage: str
    study: str
    trials: int = 200  # under two minutes on two cores for some 600 memes
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials: expected at least 1, got {self.trials}")
        if not self.study:
            raise ValueError("study: expected a name, got an empty one")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2**32 - 1, got {self.seed}")
        try:
            host = make_url(self.storage).host or ""
        except (ArgumentError, ValueError):  # their messages and causes may contain the password
            raise ValueError(f"{_EXPECTED}, got {self.place}") from None
        if "@" in host:  # the URL's parser takes the first @ for the end of the password
            raise ValueError(f"{_EXPECTED}, got {self.place}, whose password has an @: percent-encode it, as %40")

    @property
    def place(self) -> str:
        """The storage's URL without what may be secret: what lies between the user and the last @, and the query."""
        access, at, where = self.storage.rpartition("@")
        shown = where.partition("?")[0]
        if not at:
            return shown
        scheme, found, user = access.partition("://")
        name, colon, _ = user.partition(":")
        return f"{scheme}://{name}{':***' if colon else ''}@{shown}" if found else f"one that ends in {shown!r}"


def sqlite_url(file: Path) -> str:
    """The URL of a database in a file, whose path may have any characters."""
    return URL.create("sqlite", database=str(file.resolve())).render_as_string()
