"""Resolve untrusted picture names of tables to paths inside the allowed folder or URL.

The user, never the table, decides where pictures are read from: the data folder, or IMAGES, a folder or a URL. Files
are not opened. Symbolic links are resolved once per folder, so each row costs one or two `lstat`. URLs are not
requested. A name that is not there as written is looked up in a listing of the folder, which is made once: with
slashes for backslashes, in another case or Unicode form, in a folder below, and with a suffix; it must be unambiguous.
"""

import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from embed.base.errors import DatasetError

# Picture folders of the known layouts.
_FOLDERS = ("Labelled Images", "", "images", "img", "pictures")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".tif", ".tiff")
# Pictures that are looked up one by one before their folder is listed as a whole.
_MANY = 1_000
_DATA, _IMAGES = ("the data folder", "DATA"), ("IMAGES", "IMAGES")


class Finder(Protocol):
    """Resolves picture names."""

    other: Counter[str]
    """How many pictures were found otherwise than as written: {"in a folder below" and so on: number}."""

    def find(self, name: str, folders: Sequence[str] = ()) -> tuple[str, str]:
        """The picture's POSIX path under the root, and "" or why it cannot be used; folders: looked in first."""


def pictures_root(source: Mapping[str, str]) -> Path:
    """The root of a data set's pictures, from the `source` of its index: {"data": folder or table, "images", "links"}.

    For a URL it is a `upath.UPath`, which has the methods of a Path used here. Raises DatasetError, as `open_pictures`.
    """
    return open_pictures(source)[0]


def open_pictures(source: Mapping[str, str]) -> tuple[Path, Finder]:
    """`pictures_root`, and the finder of its pictures.

    Raises DatasetError if IMAGES is not a folder, or a URL that cannot be read; the message names missing packages.
    """
    data, images, links = Path(source["data"]), source.get("images", ""), source.get("links", "")
    if not images:
        root = data if data.is_dir() else data.parent
        return root, PictureFinder(root, links=links)
    if "://" in images or "::" in images:
        from embed.pictures.remote import RemoteFinder, open_root  # fsspec and UPath, which the server's image lacks

        remote = open_root(images)
        return cast(Path, remote), RemoteFinder(remote, images)
    if not Path(images).is_dir():
        raise DatasetError(f"IMAGES={images}: no such folder; expected a folder, or a URL such as s3://bucket/memes")
    return Path(images), PictureFinder(Path(images), folders=("",), given=True, links=links)


class PictureFinder:
    """Finds pictures in one folder. folders: subfolders to search, in this order.

    given: the folder is IMAGES, so a row may also name a picture by its full path; links: a folder that symbolic links
    may lead into, such as the `blobs` of a hub's cache.
    """

    def __init__(self, root: Path, folders: Sequence[str] = _FOLDERS, given: bool = False, links: str = "") -> None:
        self.other: Counter[str] = Counter()
        self._root = str(root)
        self._listing: _Listing | None = None
        self._place, variable = _IMAGES if given else _DATA
        self._missing = f"no such file in {self._place}"
        # Links out of the folder are rejected: a downloaded data set must not read the user's other files.
        self._move = f"put the files themselves there, or give {variable} the folder that holds both"
        self._given = (os.path.join(os.path.abspath(root), ""), os.path.join(os.path.realpath(root), ""))[: 2 * given]
        if links and not os.path.isdir(links):
            raise DatasetError(f"LINKS={links}: no such folder; expected the one that the links lead into")
        self._real_roots = tuple(os.path.join(os.path.realpath(place), "") for place in (root, links) if place)
        self._folders = [folder for folder in folders if os.path.isdir(root / folder)]
        self._inside: dict[str, bool] = {}
        self._wanted: Counter[str] = Counter()
        self._listed: dict[str, dict[str, bool]] = {}

    def find(self, name: str, folders: Sequence[str] = ()) -> tuple[str, str]:
        """The picture's POSIX path inside the folder, and "" or why it cannot be used; folders: looked in first."""
        inside, parts = name, [name]
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            inside = next((name[len(full) :].lstrip("/") for full in self._given if name.startswith(full)), name)
            parts = [part for part in inside.split("/") if part not in ("", ".")]
            if inside.startswith("/") or "://" in inside or ".." in re.split(r"[/\\]", inside):
                return name, self._outside(inside)
        problem = self._missing
        for folder in dict.fromkeys([*folders, *self._folders]):
            path = "/".join([folder, *parts] if folder else parts)
            found = self._problem(f"{self._root}/{path}")
            if not found:
                return path, ""
            if found != self._missing:
                problem = found
        return (name, problem) if problem != self._missing else self._look_up(name, inside, folders)

    def _look_up(self, name: str, inside: str, folders: Sequence[str]) -> tuple[str, str]:
        """A picture that is not there as written, from the listing of the folder."""
        if self._listing is None:
            self._listing = _Listing(self._root)
        path, how = self._listing.find(inside, folders)
        if not path:
            return name, self._missing + how
        problem = self._problem(f"{self._root}/{path}")
        if not problem:
            self.other[how] += 1
        return (name, problem) if problem else (path, "")

    def _outside(self, inside: str) -> str:
        problem = f"its path leads out of {self._place}; give the file's name inside it"
        if self._given or not (inside.startswith("/") or "://" in inside):
            return problem
        return f"{problem}, or where pictures may be read from as IMAGES=<folder or URL>"

    def _problem(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        there = self._there(folder)
        if there is not None and there.get(name, True):
            return "" if name in there else self._missing
        return self._problem_of_file(path)

    def _there(self, folder: str) -> dict[str, bool] | None:
        """{name: whether it is a file} of a folder from which many pictures are wanted, listed once."""
        self._wanted[folder] += 1
        if self._wanted[folder] == _MANY and self._folder_is_inside(folder):
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
            except OSError:
                pass  # every picture in it is looked up, which says why
        return self._listed.get(folder)

    def _problem_of_file(self, path: str) -> str:
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
        return os.path.join(os.path.realpath(path), "").startswith(self._real_roots)


class _Listing:
    """The files below a folder, by name without case and Unicode form, and by the name without its suffix."""

    def __init__(self, root: str) -> None:
        self._backslash = False
        self._paths: defaultdict[str, list[str]] = defaultdict(list)
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not name.startswith(".")]
            place = os.path.relpath(folder, root).replace(os.sep, "/")
            for name in names:
                self._backslash |= "\\" in name
                path = name if place == "." else f"{place}/{name}"
                stem, suffix = os.path.splitext(name)
                self._paths[_plain(name)].append(path)
                if suffix.lower() in SUFFIXES:
                    self._paths[_plain(stem)].append(path)

    def find(self, name: str, folders: Sequence[str]) -> tuple[str, str]:
        """The path that a name must mean, and how it differs from the name; or "" and what to do."""
        how = "whose names are spelled otherwise in the table"
        if re.match(r"[A-Za-z]:/|.*\\", name) and not self._backslash:
            name, how = name.replace("\\", "/"), "whose names are paths of Windows"
        parts = [part for part in name.split("/") if part not in ("", ".")]
        same_name = self._paths.get(_plain(parts[-1]), []) if parts else []
        # of several files of this name the one that agrees with most of the path
        for depth in range(len(parts), 0, -1):
            tail = "/".join(map(_plain, parts[-depth:]))
            alike = [path for path in same_name if f"/{_without_suffix(_plain(path), tail)}".endswith(f"/{tail}")]
            near = [path for path in alike if path.rpartition("/")[0] in folders] or alike
            if len(near) == 1:
                moved = near[0].rpartition("/")[0] != "/".join(parts[:-1])
                return near[0], how + ", in other folders" * moved
            if len(near) > 1:
                return "", f"; {len(near)} of this name lie below it, such as {near[0]}: give the folder as IMAGES="
        return "", ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_suffix(path: str, tail: str) -> str:
    return path if path.endswith(tail) else os.path.splitext(path)[0]


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "it is a folder, not a file"
    return "it is a named pipe, a socket or a device, not a file"
