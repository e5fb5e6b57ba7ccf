"""Where a row's picture stands in the data folder, or why it cannot be used. Names and links are hostile.

It asks the file system for the kind of each file and opens none. Links are followed once per folder, not per file:
100,000 rows cost one or two `lstat` each.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

# Where the layouts keep their pictures.
_FOLDERS = ("Labelled Images", "", "images", "img")
_MISSING = "no such file in the data folder"
# A link is refused rather than followed: a data set from elsewhere must not read what is not in it.
_MOVE = "put the files themselves there, or give DATA the folder that holds both"


class PictureFinder:
    """Finds the pictures that the rows of one data folder name; folders: where in it, the first that has one wins."""

    def __init__(self, root: Path, folders: Sequence[str] = _FOLDERS) -> None:
        self._root = str(root)
        self._real_root = os.path.join(os.path.realpath(root), "")
        self._folders = [folder for folder in folders if os.path.isdir(root / folder)]
        self._inside: dict[str, bool] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The picture's path inside the folder, as POSIX, and "" or why it cannot be used."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            return name, "its path leads out of the data folder; give the file's name inside it"
        problem = _MISSING
        for folder in self._folders:
            path = "/".join([folder, *parts] if folder else parts)
            found = self._problem(f"{self._root}/{path}")
            if not found:
                return path, ""
            if found != _MISSING:
                problem = found
        return name, problem

    def _problem(self, path: str) -> str:
        try:
            mode = os.lstat(path).st_mode
            if not self._folder_is_inside(path.rpartition("/")[0]):
                return f"a folder on its path is a link out of the data folder; {_MOVE}"
            if stat.S_ISLNK(mode):
                if not self._is_inside(path):
                    return f"a link that leads out of the data folder; {_MOVE}"
                mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return _MISSING
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
