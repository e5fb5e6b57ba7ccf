"""Pictures in object stores and on web servers, via fsspec: names, paths, error messages.

Used where IMAGES is a URL (`s3://bucket/memes`, `https://host/memes`). fsspec retries requests; credentials come from
the environment (AWS_*, FSSPEC_*) and are rejected in a URL. Nothing outside the user's URL is read or listed.
`embed.pictures.fetching` makes the requests.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from upath import UPath

from embed.base.errors import DatasetError
from embed.base.text import hide_secrets
from embed.pictures.fetching import HTTP, Listing, fetch, stamp_of
from embed.pictures.kept import Kept, ReadAhead

# Pictures read ahead of a step, and held in memory.
_AHEAD = 32
# Characters of a name: S3 allows 1024 bytes, servers a few thousand; checking longer ones would be slow.
_LONGEST = 4096
MISSING = "no such file in IMAGES"
# Beginning of reasons that concern the whole store rather than one picture.
UNREACHED = "the store does not give it"


@dataclass(frozen=True)
class RemotePath:
    """The URL of the pictures, or of one under it; not a `pathlib.Path`.

    kept: pictures that this run has read; ahead: reads them ahead of a step.
    """

    path: UPath
    kept: Kept = field(default_factory=Kept, compare=False)
    ahead: ReadAhead | None = field(default=None, compare=False)

    def __truediv__(self, name: str) -> "RemotePath":
        return replace(self, path=self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (self.path, self.kept)

    def absolute(self) -> "RemotePath":
        """Itself."""
        return self

    def listing(self, images: Iterable[str]) -> Listing:
        """The stamps of pictures in folders under this URL; images: all that will be asked for."""
        return Listing(self.path, images)

    def stamp(self) -> str:
        """Size and version, hash or time, to detect changes, in a request; "" if the store reports none of the latter."""
        return stamp_of(self.path.fs.info(self.path.path))

    def read(self, most: int) -> bytes:
        """The first `most` bytes of the picture, from what was kept or read ahead, else in one request."""
        data = self.kept.get(self.path.path)
        if data is None and self.ahead:
            data = self.ahead.get(self.path.path)
        return fetch(self.path, most)[0] if data is None else data

    def read_with_stamp(self, most: int) -> tuple[bytes, str]:
        """The same in a new request, kept for the next step, and the stamp, "" unless the response has one."""
        data, info = fetch(self.path, most)
        self.kept.put(self.path.path, data)
        return data, stamp_of(info)

    @property
    def says_stamp(self) -> bool:
        """Whether `read_with_stamp` gives the stamp, so that no request is needed for it."""
        return self.path.protocol in HTTP


def open_root(images: str) -> RemotePath:
    """The root of the pictures under a URL. It opens no connection.

    It pickles without a connection, and a forked process opens its own. Raises DatasetError for a chain of URLs, for
    credentials in the URL, and for a scheme that is unknown or whose package is missing.
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
    # A redirect could lead out of the user's URL.
    options: dict[str, Any] = {"max_redirects": 1} if url.scheme in HTTP else {}
    try:
        # a temporary path: it keeps its connection, which other processes cannot share
        _ = UPath(images.rstrip("/"), **options).fs
    except ImportError as error:
        raise DatasetError(
            f"IMAGES={images}: {error}; `.venv/bin/pip install -r requirements-ray.txt` brings what s3:// needs"
        ) from error
    except Exception as error:  # file systems raise different exceptions
        raise DatasetError(f"IMAGES={images}: not a place that fsspec can read ({error})") from error
    return RemotePath(UPath(images.rstrip("/"), **options))


@contextmanager
def read_ahead(root: RemotePath, images: Iterable[str], most: int) -> Iterator[RemotePath]:
    """A root that reads these pictures ahead of their use, which is about in this order."""
    paths = (root / image for image in images)
    ahead = ReadAhead(((path.path.path, partial(path.read, most)) for path in paths), _AHEAD)
    try:
        yield replace(root, ahead=ahead)
    finally:
        ahead.close()


class RemoteFinder:
    """Resolves untrusted picture names to paths under one URL, without requests."""

    def __init__(self, root: RemotePath, images: str) -> None:
        self.other: Counter[str] = Counter()  # a store is not listed: names are taken as written
        self._root = root.path
        self._url = f"{images.rstrip('/')}/"
        self._path = f"{root.path.path.rstrip('/')}/"

    def find(self, name: str, folders: Sequence[str] = ()) -> tuple[str, str]:
        """The picture's path under the root, and "" or why it cannot be used; existence is not checked."""
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
        # servers decode %2e to a dot, and some treat a backslash as a slash
        if ".." in re.split(r"[/\\]", _decoded(inside)):
            return "its path leads out of IMAGES; give its name inside that"
        if self._root.protocol in HTTP and re.search("[?#]", inside):
            return "a ? or # in its name, which a URL takes for its end; write %3F or %23"
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in inside):
            return "a control character in its name"
        try:
            # reject any other name that the library would change
            same = bool(path) and (self._root / path).path == self._path + path
        except ValueError:
            same = False
        return "" if same else "not a name that can stand in a URL"


def why(error: Exception) -> str:
    """Why a picture cannot be read, without its URL, so that equal failures give equal messages."""
    # fsspec wraps HTTP errors in a plain FileNotFoundError, other stores a dictionary's or boto's that is one
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)
    absent = cause is error or isinstance(cause, KeyError) or type(cause).__module__.startswith("botocore")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and absent):
        return MISSING
    if type(cause).__name__ == "TooManyRedirects":
        return f"{UNREACHED} (a redirect, which is not followed)"
    if isinstance(status, int):
        return f"{UNREACHED} (HTTP status {status})"
    words = re.sub(r"\S*://\S*", "...", f"{type(cause).__name__}: {cause}")[:200]
    return f"{UNREACHED} ({words if words.isprintable() else ascii(words)})"


def _decoded(name: str) -> str:
    """Percent-decoded, repeatedly, until nothing changes."""
    while (once := unquote(name)) != name:
        name = once
    return name
