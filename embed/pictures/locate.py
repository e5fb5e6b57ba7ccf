"""Where a row's picture stands, or why it cannot be used. Names and links are hostile.

The user says where pictures may be read from, never the table: the folder of the data, or IMAGES, a folder or a URL.
It asks the file system for the kind of each file and opens none. Links are followed once per folder, not per file:
100,000 rows cost one or two `lstat` each. A store behind a URL is not asked at all.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from embed.base.errors import DatasetError

# Where the layouts keep their pictures.
_FOLDERS = ("Labelled Images", "", "images", "img")
_DATA, _IMAGES = ("the data folder", "DATA"), ("IMAGES", "IMAGES")


class Finder(Protocol):
    """Takes the names that rows have for paths."""

    def find(self, name: str) -> tuple[str, str]:
        """The picture's path under the root, as POSIX, and "" or why it cannot be used."""


def pictures_root(source: Mapping[str, str]) -> Path:
    """Where the pictures of a data set are, from the `source` of its index: {"data": folder or table, "images"}.

    Behind a URL it is a `upath.UPath`, which has what is used of a Path here. Raises DatasetError, as `open_pictures`.
    """
    return open_pictures(source)[0]


def open_pictures(source: Mapping[str, str]) -> tuple[Path, Finder]:
    """`pictures_root`, and the finder of the pictures in it.

    Raises DatasetError where IMAGES is no folder, or a URL that cannot be read from, saying what to install.
    """
    data, images = Path(source["data"]), source.get("images", "")
    if not images:
        root = data if data.is_dir() else data.parent
        return root, PictureFinder(root)
    if "://" in images or "::" in images:
        from embed.pictures.remote import RemoteFinder, open_root  # fsspec and UPath, which the server's image lacks

        remote = open_root(images)
        return cast(Path, remote), RemoteFinder(remote, images)
    if not Path(images).is_dir():
        raise DatasetError(f"IMAGES={images}: no such folder; expected a folder, or a URL such as s3://bucket/memes")
    return Path(images), PictureFinder(Path(images), folders=("",), given=True)


class PictureFinder:
    """Finds the pictures that the rows of one data folder name; folders: where in it, the first that has one wins.

    given: the folder is IMAGES, so a row may also name a picture by its full path.
    """

    def __init__(self, root: Path, folders: Sequence[str] = _FOLDERS, given: bool = False) -> None:
        self._root = str(root)
        self._place, variable = _IMAGES if given else _DATA
        self._missing = f"no such file in {self._place}"
        # A link is refused rather than followed: a data set from elsewhere must not read what is not in it.
        self._move = f"put the files themselves there, or give {variable} the folder that holds both"
        self._given = (os.path.join(os.path.abspath(root), ""), os.path.join(os.path.realpath(root), ""))[: 2 * given]
        self._real_root = os.path.join(os.path.realpath(root), "")
        self._folders = [folder for folder in folders if os.path.isdir(root / folder)]
        self._inside: dict[str, bool] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The picture's path inside the folder, as POSIX, and "" or why it cannot be used."""
        inside = next((name[len(full) :].lstrip("/") for full in self._given if name.startswith(full)), name)
        parts = [part for part in inside.split("/") if part not in ("", ".")]
        if inside.startswith("/") or "://" in inside or ".." in parts:
            return name, self._outside(inside)
        problem = self._missing
        for folder in self._folders:
            path = "/".join([folder, *parts] if folder else parts)
            found = self._problem(f"{self._root}/{path}")
            if not found:
                return path, ""
            if found != self._missing:
                problem = found
        return name, problem

    def _outside(self, inside: str) -> str:
        leads = f"its path leads out of {self._place}; give the file's name inside it"
        if self._given or not (inside.startswith("/") or "://" in inside):
            return leads
        return f"{leads}, or where pictures may be read from as IMAGES=<folder or URL>"

    def _problem(self, path: str) -> str:
        try:
            mode = os.lstat(path).st_mode
            if not self._folder_is_inside(path.rpartition("/")[0]):
                return f"a folder on its path is a link out of {self._place}; {self._move}"
            if stat.S_ISLNK(mode):
                if not self._is_inside(path):
                    return f"a link that leads out of {self._place}; {self._move}"
                mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return self._missing
        except OSError as error:  # a name that is too long, a folder that may not be entered, a link to itself
            return f"it cannot be looked up ({error.strerror})"
        return "" if stat.S_ISREG(mode) else _kind(mode)

    def _folder_is_inside(self, folder: str) -> bool:
        if folder not in self._inside:
            self._inside[folder] = self._is_inside(folder)
        return self._inside[folder]

    def _is_inside(self, path: str) -> bool:
        return os.path.join(os.path.realpath(path), "").startswith(self._real_root)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "it is a folder, not a file"
    return "it is a named pipe, a socket or a device, not a file"
