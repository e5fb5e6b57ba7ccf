"""Resolve untrusted picture names of tables to paths inside the allowed folder or URL.

The user, never the table, decides where pictures are read from: the data folder, or IMAGES, a folder or a URL. Files
are not opened. Symbolic links are resolved once per folder, so each row costs one or two `lstat`. URLs are not
requested.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from embed.base.errors import DatasetError

# Picture folders of the known layouts.
_FOLDERS = ("Labelled Images", "", "images", "img")
_DATA, _IMAGES = ("the data folder", "DATA"), ("IMAGES", "IMAGES")


class Finder(Protocol):
    """Resolves picture names."""

    def find(self, name: str) -> tuple[str, str]:
        """The picture's POSIX path under the root, and "" or why it cannot be used."""


def pictures_root(source: Mapping[str, str]) -> Path:
    """The root of a data set's pictures, from the `source` of its index: {"data": folder or table, "images"}.

    For a URL it is a `upath.UPath`, which has the methods of a Path used here. Raises DatasetError, as `open_pictures`.
    """
    return open_pictures(source)[0]


def open_pictures(source: Mapping[str, str]) -> tuple[Path, Finder]:
    """`pictures_root`, and the finder of its pictures.

    Raises DatasetError if IMAGES is not a folder, or a URL that cannot be read; the message names missing packages.
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
    """Finds pictures in one folder. folders: subfolders to search, in this order.

    given: the folder is IMAGES, so a row may also name a picture by its full path.
    """

    def __init__(self, root: Path, folders: Sequence[str] = _FOLDERS, given: bool = False) -> None:
        self._root = str(root)
        self._place, variable = _IMAGES if given else _DATA
        self._missing = f"no such file in {self._place}"
        # Links out of the folder are rejected: a downloaded data set must not read the user's other files.
        self._move = f"put the files themselves there, or give {variable} the folder that holds both"
        self._given = (os.path.join(os.path.abspath(root), ""), os.path.join(os.path.realpath(root), ""))[: 2 * given]
        self._real_root = os.path.join(os.path.realpath(root), "")
        self._folders = [folder for folder in folders if os.path.isdir(root / folder)]
        self._inside: dict[str, bool] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The picture's POSIX path inside the folder, and "" or why it cannot be used."""
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
        problem = f"its path leads out of {self._place}; give the file's name inside it"
        if self._given or not (inside.startswith("/") or "://" in inside):
            return problem
        return f"{problem}, or where pictures may be read from as IMAGES=<folder or URL>"

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
        except OSError as error:  # name too long, permission denied, link loop
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
