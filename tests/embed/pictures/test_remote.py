"""Pictures behind a URL: what is under it is read, what is not never asked for, and whatever goes wrong is a sentence."""

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fakes import FakeEncoder, picture
from fsspec.implementations.memory import MemoryFileSystem
from machine import WITHOUT_AIOHTTP

import embed.clip.encoder
import embed.engines.prepare  # takes its own read_picture before a test changes that of hashing
import embed.pictures.hashing
from cache import content_key, read_index
from embed.__main__ import main
from embed.job import Summary, embed_dataset
from embed.pictures.fetching import stamp_of
from embed.pictures.hashing import UnusableFile, read_picture
from embed.pictures.kept import Kept
from embed.pictures.keys import StoreUnreached, hash_pictures
from embed.pictures.locate import open_pictures, pictures_root
from embed.pictures.remote import MISSING, UNREACHED, why
from embed.plan.settings import EmbedSettings
from report.pictures import thumbnails

ROOT = "memory://bucket/memes"
PICTURES = {"a.png": picture(1), "deep/b c.png": picture(2), "100%.png": picture(3), "what? #1.png": picture(4)}


@pytest.fixture
def bucket() -> Iterator[Callable[[str, bytes], None]]:
    """Puts a file into memory://bucket, which holds PICTURES under memes/ and one elsewhere."""
    store = fsspec.filesystem("memory")

    def put(name: str, data: bytes) -> None:
        store.pipe(f"/bucket/{name}", data)

    for name, data in PICTURES.items():
        put(f"memes/{name}", data)
    put("secret.png", picture(9))
    yield put
    store.rm("/bucket", recursive=True)


def table(folder: Path, names: list[str]) -> Path:
    rows = [{"image": name, "text": f"text {n}", "label": n % 2} for n, name in enumerate(names)]
    (folder / "memes.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder / "memes.jsonl"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Summary]:
    (tmp_path / "weights").write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_, **__: FakeEncoder(tmp_path / "weights"))

    def run(names: list[str], images: str = ROOT) -> Summary:
        settings = EmbedSettings(str(table(tmp_path, names)), "fake", artifacts=tmp_path / "artifacts", images=images)
        return embed_dataset(settings, say=lambda note: None)

    return run


def test_pictures_are_embedded_by_name_or_by_url(tmp_path: Path, bucket: object, run: Callable[..., Summary]) -> None:
    names = ["a.png", f"{ROOT}/deep/b c.png", "./100%.png", "what? #1.png"]
    summary = run(names)
    assert summary.work.embedded["image"] == 4 and not summary.skipped
    index = read_index(next(tmp_path.glob("artifacts/datasets/*.h5")))
    assert index.images == list(PICTURES) and index.source["images"] == ROOT
    assert index.image_keys == [content_key(data) for data in PICTURES.values()]
    assert index.ids == ["a.png", "deep/b c.png", "./100%.png", "what? #1.png"]
    root = pictures_root(index.source)
    assert read_picture(root / index.images[1]) == PICTURES["deep/b c.png"]


NAMES = [
    ("../secret.png", "leads out of IMAGES"),
    ("deep/../../secret.png", "leads out of IMAGES"),
    (f"{ROOT}/../secret.png", "leads out of IMAGES"),
    ("%2e%2e/secret.png", "leads out of IMAGES"),
    ("%252E%252e/secret.png", "leads out of IMAGES"),
    ("..%2fsecret.png", "leads out of IMAGES"),
    ("..\\secret.png", "leads out of IMAGES"),
    ("..%5csecret.png", "leads out of IMAGES"),
    ("/bucket/secret.png", "does not begin with IMAGES"),
    ("memory://bucket/secret.png", "does not begin with IMAGES"),
    ("memory://bucket/memes2/a.png", "does not begin with IMAGES"),
    ("memory:///bucket/secret.png", "does not begin with IMAGES"),
    ("file:///etc/passwd", "does not begin with IMAGES"),
    ("http://127.0.0.1:9/a.png", "does not begin with IMAGES"),
    ("simplecache::memory://bucket/memes/a.png", "does not begin with IMAGES"),
    ("zip://a.png::memory://bucket/a.zip", "does not begin with IMAGES"),
    ("s3://AKIA:hush@bucket/memes/a.png", "does not begin with IMAGES"),
    ("memory:/bucket/secret.png", "not a name that can stand in a URL"),
    ("s3:/bucket/secret.png", "not a name that can stand in a URL"),
    ("file:/etc/passwd", "not a name that can stand in a URL"),
    (".", "not a name that can stand in a URL"),
    ("deep/", "not a name that can stand in a URL"),
    (f"{ROOT}/", "not a name that can stand in a URL"),
    ("line\nbreak.png", "a control character"),
    ("nul\0.png", "a control character"),
    ("%25" * 40_000, "its name has 120,000 characters"),
]


@pytest.mark.parametrize(("name", "reason"), NAMES)
def test_names_that_lead_elsewhere_are_refused_unasked(name: str, reason: str) -> None:
    assert reason in open_pictures({"data": "x", "images": ROOT})[1].find(name)[1]


def test_the_job_goes_on_without_what_is_refused_or_missing(
    bucket: Callable[[str, bytes], None], run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed.pictures.hashing, "MAX_FILE_BYTES", 20_000)
    bucket("memes/large.png", bytes(20_001))
    bucket("memes/words.png", b"hello")
    names = ["a.png", "gone.png", "deep", "large.png", "words.png", *(name for name, _ in NAMES[:-2])]
    summary = run(names)
    said = {id: reason for id, _, reason in summary.skipped}
    assert "a.png" not in said and len(said) == len(names) - 1 and summary.work.embedded["image"] == 1
    assert said["gone.png"] == MISSING and "20,001 bytes" in said["large.png"] and "not an image" in said["words.png"]
    assert not any("hush" in f"{id}{reason}" for id, reason in said.items())
    bucket("memes/gone.png", picture(7))
    assert run(names).work.embedded["image"] == 1


class Requests(list[tuple[str, str]]):
    """(method, file or folder) of each request to the memory store, which says ETags while `versions` is true."""

    versions = True

    def of(self, method: str) -> list[str]:
        return sorted(name for one, name in self if one == method)


@pytest.fixture
def asked(bucket: object, monkeypatch: pytest.MonkeyPatch) -> Requests:
    requests = Requests()

    def counted(method: str) -> Callable[..., Any]:
        original = getattr(MemoryFileSystem, method)

        def call(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
            requests.append((method, path.rpartition("/")[2]))
            found = original(self, path, *arguments, **options)
            for info in found if method == "ls" else [found] if method == "info" else []:
                if requests.versions and info["type"] == "file":
                    info["ETag"] = content_key(self.store[info["name"]].getvalue())
            return found

        return call

    for method in ("ls", "info", "cat_file", "_open"):
        monkeypatch.setattr(MemoryFileSystem, method, counted(method))
    return requests


def test_a_picture_takes_one_request_and_none_while_it_is_unchanged(
    bucket: Callable[[str, bytes], None], asked: Requests, run: Callable[..., Summary]
) -> None:
    names = [f"deep/{seed}.png" for seed in range(20)]
    for seed, name in enumerate(names):
        bucket(f"memes/{name}", picture(seed))
    asked.clear()
    assert run(names).work.embedded["image"] == 20
    assert asked.of("cat_file") == sorted(Path(name).name for name in names)
    assert [one for one in asked if one[0] != "cat_file"] == [("ls", "deep")]
    asked.clear()
    assert run(names).work.embedded["image"] == 0
    assert asked == [("ls", "deep")]
    bucket(f"memes/{names[3]}", picture(77))
    asked.clear()
    assert run(names).work.embedded["image"] == 1
    assert asked.of("cat_file") == ["3.png"] and len(asked) == 2


def test_pictures_are_asked_for_again_where_they_could_not_be_kept(
    asked: Requests, run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kept, "put", lambda *_: None)
    assert run(list(PICTURES)).work.embedded["image"] == 4
    # hashed, embedded, and looked at for near-copies
    assert asked.of("cat_file") == sorted([Path(name).name for name in PICTURES] * 3)


def test_a_store_that_says_no_version_is_read_again(asked: Requests, run: Callable[..., Summary]) -> None:
    asked.versions = False
    for _ in range(2):
        assert not run(list(PICTURES)).skipped
    assert len(asked.of("cat_file")) == 8


def test_a_folder_that_cannot_be_listed_is_asked_for_picture_by_picture(
    bucket: Callable[[str, bytes], None],
    asked: Requests,
    run: Callable[..., Summary],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    names = [f"{seed}.png" for seed in range(20)]
    for seed, name in enumerate(names):
        bucket(f"memes/{name}", picture(seed))
    monkeypatch.setattr(MemoryFileSystem, "ls", refused)
    for embedded in (20, 0):
        asked.clear()
        assert run(names).work.embedded["image"] == embedded
        assert asked.of("info") == sorted(names) and len(asked.of("cat_file")) == embedded


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"size": 5, "ETag": '"x"', "LastModified": 7}, '5 etag "x" lastmodified 7'),
        ({"size": None, "Last-Modified": "Tue", "mimetype": "image/png"}, "None last-modified Tue"),
        ({"size": 5, "generation": 3, "mtime": 4}, "5 generation 3 mtime 4"),
        ({"size": 5, "ETag": "", "VersionId": None, "type": "file"}, ""),
    ],
)
def test_a_stamp_is_what_the_store_says_of_the_content(info: dict[str, Any], expected: str) -> None:
    assert stamp_of(info) == expected


class Served:
    """What a server answers: {path: (status, headers, body)}; and (method, path) of what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.sent = 0


@pytest.fixture
def server() -> Iterator[tuple[Served, str]]:
    """A server on this machine, and the URL of its /memes."""
    pytest.importorskip("aiohttp", reason=WITHOUT_AIOHTTP)
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append((self.command, self.path))
            status, headers, body = served.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.send(body)

        def send(self, body: bytes) -> None:
            try:
                for start in range(0, len(body), 1 << 16):
                    served.sent += self.wfile.write(body[start : start + (1 << 16)])
            except OSError:
                pass  # it has read enough

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=partial(http.serve_forever, 0.01))
        thread.start()
        yield served, f"http://127.0.0.1:{http.server_port}/memes"
        http.shutdown()
        thread.join()


def test_http_pictures_are_embedded_and_not_fetched_again(
    server: tuple[Served, str], run: Callable[..., Summary]
) -> None:
    served, url = server
    for seed in range(30):
        served.answers[f"/memes/{seed}.png"] = (200, {"ETag": f'"{seed}"'}, picture(seed))
    served.answers["/memes/a%20b%3F.png"] = (200, {"ETag": '"x"'}, picture(99))
    names = [*(f"{seed}.png" for seed in range(30)), f"{url}/a b%3F.png"]
    summary = run(names, url)
    assert summary.work.embedded["image"] == 31 and not summary.skipped
    assert sorted(served.asked) == sorted(("GET", path) for path in served.answers)
    served.asked.clear()
    served.answers["/memes/3.png"] = (200, {"ETag": '"new"'}, picture(77))
    again = run(names, url)
    assert again.work.embedded["image"] == 1
    assert [path for method, path in served.asked if method == "GET"] == ["/memes/3.png"]
    assert sorted(path for method, path in served.asked if method == "HEAD") == sorted(served.answers)


def test_http_names_and_redirects_do_not_lead_elsewhere(
    server: tuple[Served, str], run: Callable[..., Summary]
) -> None:
    served, url = server
    served.answers["/secret.png"] = (200, {}, picture(9))
    served.answers["/memes/away.png"] = (302, {"Location": "/secret.png"}, b"")
    served.answers["/memes/a.png"] = (200, {}, picture(1))
    names = ["%2e%2e/secret.png", "a.png?x", "a.png#x", "away.png", "//127.0.0.1/a.png", "a.png"]
    said = {id: reason for id, _, reason in run(names, url).skipped}
    assert "leads out" in said["%2e%2e/secret.png"] and "a redirect, which is not followed" in said["away.png"]
    assert "write %3F or %23" in said["a.png?x"] and "write %3F or %23" in said["a.png#x"] and "a.png" not in said
    assert {path for _, path in served.asked} == {"/memes/away.png", "/memes/a.png"}


@pytest.mark.parametrize("headers", [{}, {"Content-Length": ""}, {"Content-Length": "", "Accept-Ranges": "none"}])
def test_no_more_than_the_limit_is_fetched(
    server: tuple[Served, str], headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = server
    monkeypatch.setattr(embed.pictures.hashing, "MAX_FILE_BYTES", 100_000)
    served.answers["/memes/large.png"] = (200, headers, bytes(50_000_000))
    with pytest.raises(UnusableFile, match="the limit is 100,000"):
        read_picture(pictures_root({"data": "", "images": url}) / "large.png")
    assert served.sent < 20_000_000  # what the kernel and the client hold ready included


@pytest.mark.parametrize(("status", "reason"), [(403, f"{UNREACHED} (HTTP status 403)"), (404, MISSING)])
def test_what_is_wrong_with_every_picture_is_said_once(
    tmp_path: Path,
    server: tuple[Served, str],
    run: Callable[..., Summary],
    status: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served, url = server
    names = [f"{n}.png" for n in range(50)]
    served.answers |= {f"/memes/{name}": (status, {}, b"") for name in names}
    arguments = ["--data", str(table(tmp_path, names)), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]
    assert main([*arguments, "--images", url]) == 2
    error = capsys.readouterr().err
    assert error.count(reason) == 1 and "Traceback" not in error
    # a store that refuses is not asked for all of them
    assert (len({path for _, path in served.asked}) < 20) == (status == 403)


def test_a_store_that_is_down_is_said_at_once(server: tuple[Served, str]) -> None:
    root = pictures_root({"data": "", "images": "http://127.0.0.1:9/memes"})
    with pytest.raises(StoreUnreached, match=r"IMAGES=http://127.0.0.1:9/memes: the store does not give it"):
        hash_pictures(root, [f"{n}.png" for n in range(10_000)])


def test_one_forbidden_picture_is_skipped(server: tuple[Served, str], run: Callable[..., Summary]) -> None:
    served, url = server
    served.answers = {"/memes/a.png": (200, {}, picture(1)), "/memes/b.png": (403, {}, b"")}
    assert [reason for _, _, reason in run(["a.png", "b.png"], url).skipped] == [f"{UNREACHED} (HTTP status 403)"]


def test_the_same_failure_of_two_pictures_has_the_same_words() -> None:
    errors = [ConnectionError(f'could not connect to "https://user:hush@host/{n}.png?sig=hush"') for n in range(2)]
    assert why(errors[0]) == why(errors[1]) == f"{UNREACHED} (ConnectionError: could not connect to ...)"
    assert len(why(ValueError("\x1b[2J" * 1000))) < 1000 and why(ValueError("\x1b[2J")).isprintable()


def test_a_root_goes_to_other_processes(bucket: object) -> None:
    root = pictures_root({"data": "", "images": ROOT})
    assert read_picture(root / "a.png") == PICTURES["a.png"]
    assert read_picture(pickle.loads(pickle.dumps(root)) / "a.png") == PICTURES["a.png"]


def test_the_audit_reads_them(tmp_path: Path, bucket: object, capsys: pytest.CaptureFixture[str]) -> None:
    data = table(tmp_path, [*PICTURES, "gone.png", "../secret.png"])
    arguments = ["audit", str(data), "--images", ROOT, "--artifacts", str(tmp_path / "artifacts"), "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    reasons = [row["reason"] for finding in told["findings"].values() for row in finding["rows"]]
    assert MISSING in reasons and any("leads out of IMAGES" in reason for reason in reasons)
    assert "What is odd about memes.jsonl" in Path(told["page"]).read_text("utf-8")


def test_the_report_shows_them(bucket: object) -> None:
    names = ["a.png", "gone.png", "../secret.png", "%2e%2e/secret.png"]
    assert list(thumbnails("a table that is gone.csv", names, ROOT)) == ["a.png"]
    assert thumbnails("x", names, "gs://not/installed") == thumbnails("x", names, "nowhere") == {}
