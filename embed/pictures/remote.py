"""Pictures that stand behind a URL (`s3://bucket/memes`, `https://host/memes`): names, stamps, and what goes wrong.

fsspec asks the store, with its own retries; credentials come from the environment (AWS_*, FSSPEC_*) and are refused
in a URL. It lists no bucket and reads nothing outside the URL that the user gave. `embed.pictures.locate` and `embed.pictures.hashing`
use it, where IMAGES is a URL.
"""

import re
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from upath import UPath

from embed.base.errors import DatasetError
from embed.base.text import hide_secrets

RemotePath: TypeAlias = UPath
"""What is behind a URL; not a `pathlib.Path`, but with the methods of one."""

# What fsspec's stores call what changes with the content: S3, HTTP, Google, Azure, Hugging Face.
_MARKS = ("etag", "versionid", "generation", "md5hash", "content-md5", "blob_id")
_TIMES = ("lastmodified", "last-modified", "last_modified", "updated", "mtime")
_HTTP = ("http", "https")
# S3 takes 1024 bytes, servers a few thousand; longer ones would take long to look through.
_LONGEST = 4096
MISSING = "no such file in IMAGES"
# How the reasons begin that speak of the store rather than of one picture.
UNREACHED = "the store does not give it"


def open_root(images: str) -> UPath:
    """The root of the pictures behind a URL. Nothing is asked of the store yet, and nothing is connected.

    It pickles without a connection, and what is made of it in a forked process connects anew. Raises DatasetError for
    a chain of URLs, for credentials in it, for a scheme that is unknown or whose package is missing.
    """
    if "::" in images:
        raise DatasetError("IMAGES is a chain of URLs (::), which is not read; give one URL or a folder")
    try:
        url = urlsplit(images)
    except ValueError as error:
        raise DatasetError(f"IMAGES={hide_secrets(images)}: {error}") from error
    if hide_secrets(images) != images or url.query or url.fragment:
        raise DatasetError(
            "IMAGES has credentials or a query in it, which results would show; give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_<SCHEME>_<OPTION>)"
        )
    if url.scheme in ("", "file", "local") or not (url.netloc + url.path).strip("/"):
        raise DatasetError(f"IMAGES={images}: expected a folder, or a URL such as s3://bucket/memes")
    # A redirect would lead out of what the user named.
    options: dict[str, Any] = {"max_redirects": 1} if url.scheme in _HTTP else {}
    try:
        # one that is thrown away: a path keeps its connection, which no other process may use
        _ = UPath(images.rstrip("/"), **options).fs
    except ImportError as error:
        raise DatasetError(
            f"IMAGES={images}: {error}; `.venv/bin/pip install -r requirements-ray.txt` brings what s3:// needs"
        ) from error
    except Exception as error:  # each file system refuses in its own way
        raise DatasetError(f"IMAGES={images}: not a place that fsspec can read ({error})") from error
    return UPath(images.rstrip("/"), **options)


class RemoteFinder:
    """Takes the names of the rows for paths under one URL. The names are hostile; the store is not asked."""

    def __init__(self, root: UPath, images: str) -> None:
        self._root = root
        self._url = f"{images.rstrip('/')}/"
        self._path = f"{root.path.rstrip('/')}/"

    def find(self, name: str) -> tuple[str, str]:
        """The picture's path under the root, and "" or why it cannot be used; whether it is there, reading shows."""
        inside = name.removeprefix(self._url)
        # a//b is another object than a/b
        path = "/".join(part for part in inside.split("/") if part != ".")
        problem = self._problem(inside, path)
        return (name, problem) if problem else (path, "")

    def _problem(self, inside: str, path: str) -> str:
        if len(inside) > _LONGEST:
            return f"its name has {len(inside):,} characters, the limit is {_LONGEST:,}"
        if inside.startswith("/") or "://" in inside or "::" in inside:
            return "it does not begin with IMAGES; give its name inside that, or a URL that begins so"
        # a server takes %2e for a dot, and some a backslash for a slash
        if ".." in re.split(r"[/\\]", _decoded(inside)):
            return "its path leads out of IMAGES; give its name inside that"
        if self._root.protocol in _HTTP and re.search("[?#]", inside):
            return "a ? or # in its name, which a URL takes for its end; write %3F or %23"
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in inside):
            return "a control character in its name"
        try:
            # whatever else a name might mean to the library
            same = bool(path) and (self._root / path).path == self._path + path
        except ValueError:
            same = False
        return "" if same else "not a name that can stand in a URL"


def stamp(path: UPath) -> str:
    """What tells an unchanged object, or "" where the store says neither a version, nor a hash, nor a time."""
    info = {key.lower(): value for key, value in path.fs.info(path.path).items()}
    said = [f"{name} {info[name]}" for name in (*_MARKS, *_TIMES) if info.get(name)]
    return " ".join([f"{info.get('size')}", *said]) if said else ""


def why(error: Exception) -> str:
    """Why a picture cannot be read, without its URL: of all pictures that fail in one way, the same words."""
    # HTTP's stand behind a plain FileNotFoundError
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and cause is error):
        return MISSING
    if type(cause).__name__ == "TooManyRedirects":
        return f"{UNREACHED} (a redirect, which is not followed)"
    if isinstance(status, int):
        return f"{UNREACHED} (HTTP status {status})"
    words = re.sub(r"\S*://\S*", "...", f"{type(cause).__name__}: {cause}")[:200]
    return f"{UNREACHED} ({words if words.isprintable() else ascii(words)})"


def _decoded(name: str) -> str:
    """Without its percent signs, also those that were written of others."""
    while (once := unquote(name)) != name:
        name = once
    return name
