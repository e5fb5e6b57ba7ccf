"""Texts in other charsets over real HTTP: judged as they were meant, or refused with a sentence; never judged garbled."""

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from api_fakes import PATIENCE, make_service
from fakes import picture

from api.http.app import create_app
from api.http.charset import UndecodableText, decode_text
from api.schema import MAX_BODY_BYTES
from api.transport.listener import listen

WORDS = "Ça va, “Zoë”? – 5 €"
RUSSIAN = "это не смешно"
Post = Callable[[str, bytes], tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """post(content type, body) of a running server: status and JSON."""
    service = make_service()
    listener = listen(create_app(service), "127.0.0.1", 0, 2, MAX_BODY_BYTES)
    thread = threading.Thread(target=listener.run)
    thread.start()

    def send(kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        with closing(http.client.HTTPConnection("127.0.0.1", listener.port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/predict", body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.load(response)

    yield send
    listener.stop()
    thread.join(PATIENCE)
    service.predictor.close()


def form(*parts: tuple[str, bytes, str], charset: str = "", file_name: bytes = b"x.png") -> tuple[str, bytes]:
    """Content type and body of a form: a picture, and parts of (name, content, further headers)."""
    image = b'--b\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s\r\n' % (file_name, picture())
    fields = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n'.encode() + content + b"\r\n"
        for name, content, headers in parts
    ]
    declared = f"; charset={charset}" if charset else ""
    return f"multipart/form-data; boundary=b{declared}", image + b"".join(fields) + b"--b--\r\n"


def text_part(text: str, encoding: str, declared: str = "", *, more: str = "") -> tuple[str, bytes, str]:
    kind = f"Content-Type: text/plain; charset={declared}\r\n" if declared else ""
    return "text", text.encode(encoding), kind + more


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (WORDS, form(text_part(WORDS, "utf-8"))),
        (WORDS, form(text_part(WORDS, "utf-8-sig"))),
        (WORDS, form(text_part(WORDS, "utf-8", "UTF-8"))),
        (WORDS, form(text_part(WORDS, "cp1252", "windows-1252"))),
        (WORDS, form(text_part(WORDS, "cp1252", '"cp1252"'))),
        (WORDS, form(text_part(WORDS, "cp1252", "ISO-8859-1"))),  # as browsers take it
        (WORDS, form(("_charset_", b"windows-1252", ""), text_part(WORDS, "cp1252"))),
        (WORDS, form(text_part(WORDS, "cp1252"), ("_charset_", b"windows-1252", ""))),
        (WORDS, form(text_part(WORDS, "cp1252"), charset="windows-1252")),
        # the part's own comes first
        (WORDS, form(("_charset_", b"koi8-r", ""), text_part(WORDS, "utf-8", "utf-8"), charset="koi8-r")),
        (WORDS, form(text_part(WORDS, "utf-16"))),
        (WORDS, form(text_part("\ufeff" + WORDS, "utf-16-be"))),
        (WORDS, form(text_part(WORDS, "utf-16", "utf-16"))),
        (WORDS, form(text_part(WORDS, "utf-16-le", "utf-16le"))),
        (WORDS, form(text_part(WORDS, "utf-32"))),
        (RUSSIAN, form(text_part(RUSSIAN, "koi8-r", "koi8-r"))),
        (RUSSIAN, form(text_part(RUSSIAN, "cp1251", "windows-1251"))),
        ("草草", form(text_part("草草", "shift_jis", "Shift_JIS"))),
        ("plain", form(text_part("plain", "ascii", "us-ascii", more="Content-Transfer-Encoding: 7bit\r\n"))),
        (WORDS, form(text_part(WORDS, "utf-8", more="Content-Transfer-Encoding: Binary\r\n"))),
        (WORDS, form(text_part(WORDS, "utf-8"), file_name=b"caf\xe9 \x80.png")),
        ("true", form(text_part("true", "utf-8"), ("explain", "false".encode("utf-16"), ""))),
    ],
)
def test_a_field_is_read_in_its_charset(post: Post, text: str, sent: tuple[str, bytes]) -> None:
    status, answer = post(*sent)
    assert status == 200, answer
    assert answer["text"] == {"value": text, "source": "request"}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (form(text_part(WORDS, "cp1252")), "not UTF-8"),
        (form(text_part(WORDS, "cp1252", "utf-8")), "not in 'utf-8'"),
        (form(text_part(WORDS, "utf-8", "us-ascii")), "not in 'us-ascii'"),
        (form(text_part(WORDS, "utf-8", "x-of-my-own")), "'x-of-my-own' is not known"),
        (form(("_charset_", b"\xff", ""), text_part(WORDS, "utf-8")), "is not known"),
        (form(text_part(WORDS, "utf-8"), charset="zlib"), "'zlib' is not known"),
        (form(text_part("plain", "ascii", "idna")), "'idna' is not known"),
        (form(text_part("plain", "ascii", "unicode_escape")), "is not known"),
        (form(text_part("plain", "ascii", "x" * 1000)), "is not known"),
        (form(text_part("plain", "utf-16-le")), "control characters"),
        (form(text_part(RUSSIAN, "utf-16-be")), "control characters"),
        (form(text_part(WORDS, "utf-16-le", "utf-16")), "without a byte order mark"),
        (form(text_part("a", "ascii", "utf-16le")), "not in 'utf-16le'"),
        (form(text_part("=C3=A7a", "ascii", more="Content-Transfer-Encoding: quoted-printable\r\n")), "plain bytes"),
        (form(text_part("w6dh", "ascii", more="Content-Transfer-Encoding: base64\r\n")), "plain bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_for_sure_is_refused(post: Post, sent: tuple[str, bytes], why: str) -> None:
    status, problem = post(*sent)
    assert (status, problem["code"]) == (400, "unreadable_text"), problem
    assert problem["detail"].startswith("`text`: ") and why in problem["detail"]


@pytest.mark.parametrize(
    ("declared", "encoding", "status"),
    [
        ("", "utf-8", 200), ("", "utf-16", 200), ("utf-8", "utf-8", 200), ("utf-16", "utf-16-le", 200),
        ("windows-1252", "cp1252", 200), ("latin1", "cp1252", 200),
        ("", "cp1252", 400), ("utf-8", "cp1252", 400), ("x-of-my-own", "utf-8", 400), ("us-ascii", "utf-8", 400),
    ],
)  # fmt: skip
def test_json_is_read_in_its_charset(post: Post, declared: str, encoding: str, status: int) -> None:
    value = {"image": base64.b64encode(picture()).decode(), "text": WORDS}
    body = json.dumps(value, ensure_ascii=False).encode(encoding)
    got, answer = post("application/json" + (f"; charset={declared}" if declared else ""), body)
    assert got == status, answer
    if status == 200:
        assert answer["text"]["value"] == WORDS
    else:
        assert answer["code"] == ("not_json" if declared in ("", "utf-8") else "unreadable_text")


@pytest.mark.parametrize("text", ["", "a", "tab\tand\r\nlines", "one \x02 of a PDF", "nul\0here"])
def test_an_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert decode_text(text.encode()) == text


@pytest.mark.parametrize("name", ["", " ", "utf_8\0", "../utf-8", "mbcs", "undefined", "rot13", "cp037", "é"])
def test_only_charsets_of_text_are_known(name: str) -> None:
    if not name:
        assert decode_text(b"x", name) == "x"
        return
    with pytest.raises(UndecodableText, match="not known"):
        decode_text(b"x", name)
