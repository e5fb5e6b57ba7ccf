"""Request pictures and their stamps from object stores and web servers: a picture in one request.

Any exception of the file system reaches the caller.
"""

import errno
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from fsspec import asyn
from upath import UPath

HTTP = ("http", "https")
# Object stores are latency-bound: concurrent requests of a thread that waits for them.
REQUESTS_AT_ONCE = 16
# Names of content versions in fsspec's file info: S3, HTTP, Google, Azure, Hugging Face.
_MARKS = ("etag", "versionid", "generation", "md5hash", "content-md5", "blob_id")
_TIMES = ("lastmodified", "last-modified", "last_modified", "updated", "mtime")
# A listing costs a request for each thousand files of a folder; fewer pictures than these are asked for one by one.
_LISTED = 16
_BLOCK = 1 << 18


def stamp_of(info: Mapping[str, Any]) -> str:
    """Size and version, hash or time of an object, to detect changes; "" if the store reports none of the latter."""
    info = {key.lower(): value for key, value in info.items()}
    marks = [f"{name} {info[name]}" for name in (*_MARKS, *_TIMES) if info.get(name)]
    return " ".join([f"{info.get('size')}", *marks]) if marks else ""


def fetch(path: UPath, most: int) -> tuple[bytes, dict[str, Any]]:
    """The first `most` bytes of a picture, and what the response says of it, of which HTTP's is enough for a stamp."""
    if path.protocol in HTTP:
        return asyn.sync(path.fs.loop, _get, path.fs, path.path, most)
    try:
        return path.fs.cat_file(path.path, start=0, end=most), {}
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return path.fs.cat_file(path.path), {}  # S3 has no range in an empty object


async def _get(fs: Any, url: str, most: int) -> tuple[bytes, dict[str, Any]]:
    """A request of fsspec's session that stops after `most` bytes: a server's response may never end."""
    session = await fs.set_session()
    # as fsspec asks for a file's info, so that the size is the same
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        response.raise_for_status()
        info = dict(response.headers)
        if info.get("Content-Encoding", "identity") in ("", "identity") and "Content-Length" in info:
            info["size"] = int(info["Content-Length"])
        data = bytearray()
        while len(data) < most and (block := await response.content.read(min(_BLOCK, most - len(data)))):
            data += block
        return bytes(data), info


class Listing:
    """The stamps of pictures under a URL, from listings of their folders; web servers have none."""

    def __init__(self, root: UPath, images: Iterable[str]) -> None:
        """images: all that will be asked for."""
        self._root, self._stamps = root, dict[str, str]()
        folders = Counter(map(_folder, images))
        self._unlisted = {name for name, count in folders.items() if count >= _LISTED and root.protocol not in HTTP}

    def stamps(self, images: Iterable[str]) -> dict[str, str]:
        """{image: stamp} of pictures in listed folders, among them all of `images`; "" if the store reports none."""
        asked = {*map(_folder, images)} & self._unlisted
        self._unlisted -= asked
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for found in pool.map(self._list, sorted(asked)):
                self._stamps |= found
        return self._stamps

    def _list(self, folder: str) -> dict[str, str]:
        path = self._root / folder if folder else self._root
        if path.path.rstrip("/") != f"{self._root.path.rstrip('/')}/{folder}".rstrip("/"):
            return {}
        path.fs.invalidate_cache(path.path)  # of an earlier run in this process
        entries = []
        with suppress(Exception):  # stores raise their own types; each picture is asked for, and its error says why
            entries = path.fs.ls(path.path, detail=True)
        path.fs.invalidate_cache(path.path)
        found = {entry["name"].rpartition("/")[2]: stamp_of(entry) for entry in entries if entry["type"] == "file"}
        return {f"{folder}/{name}" if folder else name: stamp for name, stamp in found.items()}


def _folder(image: str) -> str:
    return image.rpartition("/")[0]
