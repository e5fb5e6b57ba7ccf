"""Hostile requests: each is a problem+json of 4xx with a sentence, or an honest answer, in bounded time and memory.

What never reaches the application (headers too large, slow senders, broken HTTP) is in `test_api_transport.py`.
"""

import base64
import io
import json
import socket
import subprocess
import sys
import tracemalloc
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from api_fakes import make_client, make_service
from fakes import picture
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.schema import MAX_BATCH
from tests.embed.pictures.test_hostile import BOMBS, encoded, many_blocks, many_scans

ROOT = Path(__file__).parents[3]
GOOD = picture()
BOUNDARY = "b"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    service = make_service()
    yield make_client(service)
    service.predictor.close()


@pytest.fixture(autouse=True)
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the server makes a connection."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def problem(response: TestResponse) -> dict[str, Any]:
    """The problem of the response; it has no internal details."""
    assert 400 <= response.status_code < 500, response.data
    assert response.content_type == "application/problem+json"
    told = json.loads(response.data)
    assert told["status"] == response.status_code and told["title"] and len(told["detail"]) < 400
    assert told["request_id"] == response.headers["X-Request-ID"]
    for inside in ("Traceback", "/work", ".py", "site-packages", "object at 0x"):
        assert inside not in told["detail"]
    return told


def part(name: str, value: bytes, *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data; {name}", *more])
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + value + b"\r\n"


IMAGE = part('name="image"; filename="x.png"', GOOD)
END = f"--{BOUNDARY}--\r\n".encode()


def form(*parts: bytes, end: bytes = END) -> bytes:
    return b"".join(parts) + end


def post(
    client: FlaskClient, body: bytes | str, kind: str = "application/json", path: str = "/predict"
) -> TestResponse:
    return client.post(path, data=body, content_type=kind)


def as_json(image: Any, **fields: Any) -> str:
    return json.dumps({"image": base64.b64encode(image).decode() if isinstance(image, bytes) else image, **fields})


# Pictures


def black_png(width: int, height: int) -> bytes:
    """A valid PNG of zeros with far fewer bytes than pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    squeeze, size = zlib.compressobj(9, wbits=-15), height * (1 + width)
    row = squeeze.compress(bytes(1 + width)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    checksum = (size % 65521 << 16 | 1).to_bytes(4, "big")  # Adler-32 of zeros
    pixels = b"\x78\x01" + row * height + b"\x03\x00" + checksum
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def batch(*memes: str) -> str:
    return f'{{"memes": [{", ".join(memes)}]}}'


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "a png of 900 megapixels": (lambda: black_png(30_000, 30_000), 413),
    "a png of 100 megapixels, where Pillow only warns": (lambda: black_png(10_000, 10_000), 413),
    "a gif of 72 megapixels": (BOMBS["gif"], 413),
    "a small tiff out of one large tile": (BOMBS["tiles.tiff"], 413),
    "a webp that claims a large canvas": (BOMBS["canvas.webp"], 413),
    "a bmp that claims 3,600 megapixels": (BOMBS["bmp"], 413),
    "a thread": (BOMBS["long.png"], 413),
    "a jpeg of thousands of scans": (lambda: many_scans(10_000), 400),
    "a gif of a million blocks": (lambda: many_blocks(2_000_000), 400),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>", 415),
    "svg with an entity": (lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg/>', 415),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj", 415),
    "html": (lambda: b"<!doctype html><script>alert(1)</script>", 415),
    "postscript, which starts a program": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "an icon": (lambda: encoded((16, 16), "ICO"), 415),
    "zip": (lambda: b"PK\x03\x04" + bytes(30), 415),
    "a name": (lambda: b"/etc/passwd", 415),
    "an address": (lambda: b"http://127.0.0.1/meme.png", 415),
    "nothing": (lambda: b"", 400),
    "zeros": (lambda: bytes(1000), 415),
    "a png's first bytes": (lambda: GOOD[:8], 415),
    "half a png": (lambda: GOOD[: len(GOOD) // 2], 400),
    "half a jpeg": (lambda: (data := picture(format="JPEG"))[: len(data) // 2], 400),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_pictures_and_bombs_are_refused(client: FlaskClient, name: str) -> None:
    make, status = REFUSED[name]
    data = make()
    started = process_time()
    told = problem(post(client, form(part('name="image"; filename="x.png"', data, "Content-Type: image/png")), FORM))
    assert told["status"] == status and told["detail"].startswith("image: ")
    several = client.post("/predict/batch", data=batch(as_json(data)), content_type="application/json")
    (refused,) = several.get_json()["predictions"]
    assert refused["error"]["detail"] == told["detail"] and refused["error"]["status"] == status
    assert process_time() - started < 10


def test_a_warning_of_pillow_is_not_on_stderr() -> None:
    # in a process of its own: here, warnings are errors
    decode = """
import sys
from embed.pictures.decoding import TooManyPixels, decode_picture
try:
    decode_picture(sys.stdin.buffer.read())
except TooManyPixels:
    print("refused")
"""
    ran = subprocess.run(
        [sys.executable, "-c", decode], input=black_png(10_000, 10_000), cwd=ROOT, capture_output=True, check=True
    )
    assert (ran.stdout, ran.stderr) == (b"refused\n", b"")


def animated(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def deep_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [animated("GIF"), animated("WEBP", lossless=True), animated("PNG"), animated("TIFF"), picture(mode="CMYK", format="JPEG"),
     deep_png(), picture(mode="P"), picture(mode="1"), picture(mode="LA"), picture(mode="I", format="TIFF"),
     picture(mode="F", format="TIFF"), picture(mode="P", format="GIF"), picture(format="BMP"), encoded((1, 1), "PNG"),
     GOOD + b"<script>alert(1)</script>"],
)  # fmt: skip
@pytest.mark.parametrize("said", ["image/png", "image/svg+xml", "text/html", "", "multipart/form-data; boundary=x"])
def test_the_declared_type_of_a_picture_is_ignored(client: FlaskClient, data: bytes, said: str) -> None:
    response = client.post("/predict", data={"image": (io.BytesIO(data), "x.exe", said), "text": "abc"})
    assert response.status_code == 200 and response.get_json()["probability"] == 0.3


def test_the_bombs_of_this_file_are_valid(client: FlaskClient) -> None:
    assert client.post("/predict", data={"image": (io.BytesIO(black_png(3_000, 2_000)), "x.png")}).status_code == 200


def test_the_first_frame_of_an_animation_is_classified() -> None:
    service = make_service()
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True})):
        pixels = service.predictor.classifier.prepare_image(animated(format, **options))
        assert (pixels.reshape(-1, 3)[:, :2].float().mean(0) - 127.5).sign().tolist() == [1, -1], format
    service.predictor.close()


# JSON


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (as_json("%" * 100), 422),
        (as_json("====" * 100), 422),
        (as_json("QUJ"), 422),
        (as_json("QUJD=QUJD"), 422),
        (as_json("-_-_"), 422),
        (as_json("é" * 4), 422),
        (as_json("\0" * 4), 422),
        (as_json("\ud83d"), 422),
        (as_json("data:image/png;base64," + base64.b64encode(GOOD).decode()), 422),
        (as_json("http://127.0.0.1/meme.png"), 422),
        (as_json("file:///etc/passwd"), 422),
        (as_json("/etc/passwd/"), 415),  # is base64
        (as_json(""), 400),
        (as_json(None), 422),
        (as_json(1), 422),
        (as_json([1, 2]), 422),
        (as_json({"url": "http://127.0.0.1"}), 422),
        ("[" * 100_000, 400),
        ('{"image":' * 100_000, 400),
        ("[" * 1_000_000, 422),
        ('{"image": "", "text": ' + "[" * 90_000 + "]" * 90_000 + "}", 400),
        ('{"image": NaN}', 422),
        ('{"image": "", "text": Infinity}', 422),
        ('{"image": "", "explain": -Infinity}', 422),
        ('{"image": "", "text": ' + "9" * 10_000 + "}", 400),
        ("9" * 1_000_000, 400),
        ("-" * 1_000_000, 400),
        ("1e999999", 422),
        ('{"image": "", "text": 1e999}', 422),
        ("null", 422),
        ("true", 422),
        ('"image"', 422),
        ("[]", 422),
        ("{}", 422),
        ("{'image': ''}", 400),
        ('{"image": "",}', 400),
        ('{"image": ""} {"image": ""}', 400),
        ('{"image": "\x01"}', 400),
        (b'{"image": "\xff"}', 400),
        (b"\xff\xfe\x00", 400),
        (b"\x00" * 1000, 400),
        (b"\x1f\x8b" + bytes(100), 400),
        ("{" + ",".join(f'"{n}": 0' for n in range(10_000)) + "}", 422),
        ('{"image": "", "__proto__": {"x": 1}}', 422),
        ('{"image": "", "": 1}', 422),
        (json.dumps({"image": "", "\ud83d": 1}), 422),
        (json.dumps({"image": "", "x`\n" * 1000: 1}), 422),
        (as_json(GOOD, text=["a"]), 422),
        (as_json(GOOD, text=True), 422),
        (as_json(GOOD, text="x" * 1_000_000), 422),
        (as_json(GOOD, text="\ud83d" * 5_001), 422),
        (as_json(GOOD, ocr=None), 422),
        (as_json(GOOD, ocr="OFF"), 422),
        (as_json(GOOD, ocr="\ud83d"), 422),
        (as_json(GOOD, ocr="x" * 1_000_000), 422),
        (as_json(GOOD, ocr="\u202e' - at `$.text`"), 422),
        (as_json(GOOD, explain="true"), 422),
        (as_json(GOOD, explain=None), 422),
        (as_json(GOOD, explain=0), 422),
    ],
    ids=lambda value: ascii(value)[:40] if not isinstance(value, int) else str(value),
)
def test_invalid_json_is_refused(client: FlaskClient, body: str | bytes, status: int) -> None:
    assert problem(post(client, body))["status"] == status
    if isinstance(body, str) and status == 422 and body.startswith('{"image"'):
        answer = post(client, batch(body, as_json(GOOD)), path="/predict/batch")
        entries = answer.get_json()["predictions"]
        assert entries[0]["error"]["status"] == status and entries[1]["label"]
    else:
        problem(post(client, body, path="/predict/batch"))


@pytest.mark.parametrize(
    "text", ["\0" * 5_000, "\ud83d\ude00", "\ud83d", "\u202e" * 100, "\ufeff", "￿", "a\u0300" * 2_500]
)
def test_unusual_texts_are_accepted(client: FlaskClient, text: str) -> None:
    response = post(client, as_json(GOOD, text=text))
    assert response.status_code == 200 and response.get_json()["text"]["value"].isprintable() in (True, False)


def test_the_last_of_duplicate_json_keys_counts(client: FlaskClient) -> None:
    body = as_json(GOOD, text="abc").replace("{", '{"image": 7, "text": 7, ')
    assert post(client, body).get_json()["text"]["value"] == "abc"


@pytest.mark.parametrize("body", ["[" + "[]," * 6_600_000 + "0]", as_json("aa " * 6_600_000)], ids=["lists", "spaces"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_the_memory_of_parsing_is_bounded(client: FlaskClient, body: str, path: str) -> None:
    sent = body.encode()
    tracemalloc.start()
    try:
        problem(post(client, sent, path=path))
        assert tracemalloc.get_traced_memory()[1] < 5 * len(sent)
    finally:
        tracemalloc.stop()


def test_each_bomb_of_a_batch_is_refused(client: FlaskClient) -> None:
    bomb = as_json(black_png(10_000, 10_000))
    answer = post(client, batch(*[bomb] * MAX_BATCH), path="/predict/batch")
    assert [entry["error"]["status"] for entry in answer.get_json()["predictions"]] == [413] * MAX_BATCH


# Forms


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "no part of the form"),
        (END, 400, "no part of the form"),
        (b"\0" * 1000, 400, "no part of the form"),
        (form(IMAGE, end=b""), 400, "cut off"),
        (form(IMAGE)[:100], 400, "cut off"),
        (form(IMAGE)[:20], 400, "cut off"),
        (form(part('name="image"', GOOD)), 422, "text field"),
        (form(part('name="image"; filename=""', b"")), 400, "empty"),  # a browser's, where none was chosen
        (form(IMAGE, part('name="text"; filename="a.txt"', b"abc")), 422, "only `image` is a file"),
        (form(IMAGE, part('name="text"; filename="a.txt"', b"abc"), part('name="text"', b"abc")), 422, "text"),
        (form(IMAGE, IMAGE), 422, "more than once"),
        (form(IMAGE, part('name="image"', b"abc")), 422, "more than once"),
        (form(IMAGE, part('name="text"', b"a"), part('name="text"', b"b")), 422, "more than once"),
        (form(IMAGE, part('name="explain"', b"maybe")), 422, "`explain`"),
        (form(IMAGE, part('name="explain"', b"")), 422, "`explain`"),
        (form(IMAGE, part('name="explain"', b"1")), 422, "`explain`"),
        (form(IMAGE, part('name="ocr"', b"yes")), 422, "`ocr`"),
        (form(IMAGE, part('name="ocr"', b"")), 422, "`ocr`"),
        (form(IMAGE, part('name="text"', b"x" * 1_000_000)), 422, "`text`"),
        (form(IMAGE, part('name=""', b"x")), 422, "unknown field"),
        (form(IMAGE, part("x=1", b"x")), 422, "unknown field"),
        (form(IMAGE, part("x=1", b"x"), part('name="a"', b"x")), 422, "unknown field"),
        (form(IMAGE, part('filename="x"', b"x"), part('name="a"; filename="y"', b"x")), 422, "only `image` is a file"),
        (form(IMAGE, part('name="\xff"', b"x")), 422, "unknown field"),
        (form(IMAGE, part('name="' + "x" * 100_000 + '"', b"x")), 422, "unknown field"),
        (form(IMAGE, *[part(f'name="f{n}"', b"x") for n in range(60)]), 413, "parts"),
        (form(*[IMAGE] * 60), 413, "parts"),
        (form(b"--b\r\nno header\r\n\r\nx\r\n"), 400, "no part of the form"),
        (form(b"--b\r\n\r\nx\r\n"), 400, "no part of the form"),
        (form(part('name="image"; filename="x"', b"", "Content-Transfer-Encoding: base64")), 400, "plain bytes"),
    ],
    ids=lambda value: ascii(value)[-40:] if not isinstance(value, int) else str(value),
)
def test_invalid_forms_are_refused(client: FlaskClient, body: bytes, status: int, sentence: str) -> None:
    told = problem(post(client, body, FORM))
    assert told["status"] == status and sentence in told["detail"]


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other",
     "multipart/form-data; boundary=" + "x" * 5_000, 'multipart/form-data; boundary="', "multipart/form-data; boundary=\xe9",
     "multipart/form-data; boundary=b; boundary=c", "multipart/mixed; boundary=b", "multipart/form-data-x; boundary=b",
     "application/json", "application/json; charset=no-such", "application/x-www-form-urlencoded", "text/plain", "image/png",
     "", "/", ";", "\xff", "application/json, multipart/form-data", "x" * 8_000],
)  # fmt: skip
def test_a_wrong_content_type_is_refused(client: FlaskClient, kind: str) -> None:
    assert problem(post(client, form(IMAGE), kind))["status"] in (400, 415, 422)
    assert problem(post(client, form(IMAGE), kind, "/predict/batch"))["status"] in (400, 415, 422)


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd", "/etc/passwd", "C:\\x.png", "a\0b.png", "x" * 5_000, "x.php", "'; rm -rf /", "\u202egnp.x"],
)
def test_the_file_name_is_ignored(client: FlaskClient, filename: str) -> None:
    response = client.post("/predict", data={"image": (io.BytesIO(GOOD), filename)})
    assert response.status_code == 200 and filename.encode() not in response.data


def test_data_after_the_form_is_ignored(client: FlaskClient) -> None:
    assert post(client, b"preamble\r\n" + form(IMAGE) + b"GET / HTTP/1.1\r\n\r\n", FORM).status_code == 200


# The rest of a request


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "CONNECT", "PROPFIND", "get", "X" * 500, "\xff"]
)
def test_other_methods_are_refused(client: FlaskClient, method: str) -> None:
    for path in ("/predict", "/predict/batch"):
        response = client.open(path, environ_overrides={"REQUEST_METHOD": method})
        assert response.status_code == 405 and response.headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": "-1"}, {"CONTENT_LENGTH": "abc"}, {"CONTENT_LENGTH": "1e3"}, {"CONTENT_LENGTH": "0"},
        {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "9" * 30}, {"CONTENT_LENGTH": "9" * 5_000}, {"CONTENT_LENGTH": "\xb2"},
        {"PATH_INFO": "/predict/../../etc/passwd"}, {"PATH_INFO": "/\xff\xfe"}, {"PATH_INFO": ""},
        {"PATH_INFO": "/" + "a/" * 4_000}, {"PATH_INFO": "/predict//batch"}, {"PATH_INFO": "/predict\0"},
        {"PATH_INFO": "/static/../api/http/app.py"}, {"PATH_INFO": "/templates/page.html"}, {"PATH_INFO": "/.git/config"},
    ],
    ids=ascii,
)  # fmt: skip
def test_invalid_lengths_and_paths_are_refused(client: FlaskClient, environ: dict[str, str]) -> None:
    problem(client.post("/predict", data=as_json(GOOD), content_type="application/json", environ_overrides=environ))


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_X_REQUEST_ID": "a\r\nSet-Cookie: b=c"}, {"HTTP_X_REQUEST_ID": "a\nb"}, {"HTTP_X_REQUEST_ID": "x" * 10_000},
        {"HTTP_X_REQUEST_ID": "\xff\0"}, {"HTTP_AUTHORIZATION": "Bearer \xff\0"}, {"HTTP_AUTHORIZATION": "Basic !!!"},
        {"HTTP_AUTHORIZATION": "Digest x"}, {"HTTP_COOKIE": "session=.eJ;" * 500}, {"HTTP_HOST": "evil.example:99999"},
        {"HTTP_HOST": "a b\xff"}, {"HTTP_HOST": ""}, {"HTTP_ORIGIN": "null"}, {"HTTP_ACCEPT": "image/png;q=x"},
        {"HTTP_RANGE": "bytes=0-1,5-"}, {"HTTP_IF_NONE_MATCH": "*"}, {"HTTP_EXPECT": "x"}, {"HTTP_X_FORWARDED_FOR": "\xff"},
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"}, {"HTTP_CONTENT_ENCODING": "br"}, {"QUERY_STRING": "a=%ff&" * 1_000},
        {"QUERY_STRING": "image=x&text=y&ocr=z"},
    ],
    ids=lambda environ: ascii(environ)[:50],
)  # fmt: skip
def test_unusual_headers_are_ignored(client: FlaskClient, environ: dict[str, str]) -> None:
    response = client.post(
        "/predict", data=as_json(GOOD, text="abc"), content_type="application/json", environ_overrides=environ
    )
    assert response.status_code == 200 and response.get_json()["probability"] == 0.3
    assert response.headers["X-Request-ID"].isalnum() and "Set-Cookie" not in response.headers
    assert client.get("/healthz", environ_overrides=environ).status_code == 200
