"""Parses the memes of the current request, a form or JSON. The input is not trusted; every error is a Refusal."""

import base64
import io
import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_args

import msgspec
from flask import request
from werkzeug.datastructures import Headers
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from api.http.charset import UndecodableText, decode_text
from api.model.prediction import Meme
from api.schema import MAX_BATCH, BatchRequest, MemeForm, MemeRequest, Ocr

FORM, JSON = "multipart/form-data", "application/json"
_AS_FORM = f"{FORM} with a file `image` (and a field `text`)"
_AS_JSON = JSON + ' {"image": "<base64>", "text": "..."}'
_WHITE = string.whitespace.encode()
# 16 texts of commas only have 80,000. Parsing 20 MB of `[],[],` would take 500 MB and hold the GIL for 3 s.
_MAX_VALUES = 100_000
MAX_FORM_PARTS = 10
_CHUNK_BYTES = 65_536
# The field that declares the charset of the others.
_CHARSET = "_charset_"
# Encodings of a part that leave its bytes as they are.
_PLAIN = ("7bit", "8bit", "binary")
# Form fields are strings.
_WORDS = {"true": True, "false": False}
Shape = TypeVar("Shape")


class Refusal(ValueError):
    """A bad request; becomes a problem+json response with this status, title and detail."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class _Decoder(MultipartDecoder):
    """Reads headers with bytes in any charset: the name of a file does not matter."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        return super()._parse_headers(data.decode("utf-8", "replace").encode())


@dataclass(frozen=True)
class _Part:
    """A part of a form. is_file: whether it has a file name, as a picture must."""

    name: str
    is_file: bool
    headers: Headers
    content: bytes

    @property
    def charset(self) -> str:
        """The charset that the part declares, or ""."""
        return parse_options_header(self.headers.get("Content-Type"))[1].get("charset", "")


def read_meme() -> Meme:
    """The meme of a `POST /predict`. Raises Refusal."""
    if request.mimetype == FORM:
        return _from_form()
    if request.mimetype == JSON:
        return parse_meme(_json())
    raise Refusal(415, "Unsupported media type", f"send {_AS_FORM}, or {_AS_JSON}")


def read_batch(most: int) -> list[Any]:
    """The memes of a batch as JSON values for `parse_meme`, at most MAX_BATCH and at most `most`. Raises Refusal."""
    if request.mimetype != JSON:
        raise Refusal(415, "Unsupported media type", 'send application/json {"memes": [{"image": "<base64>"}, ...]}')
    fields = _json()
    if not isinstance(fields, dict) or not isinstance(fields.get("memes"), list):
        raise _unprocessable('the body must be a JSON object {"memes": [{"image": "<base64>", "text": "..."}, ...]}')
    unknown = fields.keys() - {field.name for field in msgspec.structs.fields(BatchRequest)}
    if unknown:
        raise _unprocessable(f"unknown field {str(min(unknown))[:50]!r}; a batch has only `memes`")
    most = min(most, MAX_BATCH)
    if not 1 <= len(fields["memes"]) <= most:
        raise _unprocessable(f"`memes` has {len(fields['memes']):,} entries, expected 1 to {most}")
    return fields["memes"]


def parse_meme(fields: Any) -> Meme:
    """A meme from its JSON value. Raises Refusal."""
    if not isinstance(fields, dict):
        raise _unprocessable(f"a meme must be a JSON object, as in {_AS_JSON}")
    sent = _checked(fields, MemeRequest)
    try:
        # `base64 meme.png` and many libraries break lines
        data = base64.b64decode(sent.image.encode("ascii").translate(None, _WHITE), validate=True)
    except ValueError as error:
        raise _unprocessable("`image` is not base64 (standard alphabet, padded, without a `data:` prefix)") from error
    return Meme(data, sent.text, sent.ocr != "off", sent.explain)


def _from_form() -> Meme:
    parts = _parts()
    names = [part.name for part in parts]
    for part in parts:
        if names.count(part.name) > 1:
            raise _unprocessable(
                f"{part.name[:50]!r} was sent more than once; send one meme, or several to /predict/batch"
            )
        if part.name == "image" and not part.is_file:
            raise _unprocessable("`image` was sent as a text field; send it as a file (curl: -F image=@meme.png)")
        if part.name != "image" and part.is_file:
            raise _unprocessable(f"file {part.name[:50]!r}: only `image` is a file")
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in _PLAIN:
            raise _unreadable(
                part.name, "its Content-Transfer-Encoding has no meaning in a form (RFC 7578); send its plain bytes"
            )
    fields = _texts(parts) | {part.name: part.content for part in parts if part.is_file}
    if "explain" in fields:
        fields["explain"] = _WORDS.get(fields["explain"].lower(), fields["explain"])
    sent = _checked(fields, MemeForm)
    return Meme(sent.image, sent.text, sent.ocr != "off", sent.explain)


def _parts() -> list[_Part]:
    """The parts of the form, in memory: their size is limited with the body. Raises Refusal."""
    try:
        parts = list(_parsed(request.mimetype_params.get("boundary", "").encode("ascii")))
    except ValueError:
        parts = []
    if not parts:
        raise Refusal(
            400, "Not a form", "no part of the form could be read: it is empty, cut off, or lacks its boundary"
        )
    return parts


def _parsed(boundary: bytes) -> Iterator[_Part]:
    """Raises ValueError, and RequestEntityTooLarge for too many parts."""
    if not boundary:
        raise ValueError("no boundary")
    decoder, content = _Decoder(boundary, max_parts=MAX_FORM_PARTS), io.BytesIO()
    part: Field | File | None = None
    for data in (*iter(partial(request.stream.read, _CHUNK_BYTES), b""), None):
        decoder.receive_data(data)
        while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
            if isinstance(event, (Field, File)):
                part, content = event, io.BytesIO()
            elif isinstance(event, Data) and part:
                content.write(event.data)
                if not event.more_data:
                    # a part may have no name
                    yield _Part(part.name or "", isinstance(part, File), part.headers, content.getvalue())


def _texts(parts: list[_Part]) -> dict[str, Any]:
    """The text fields, but for `_charset_`, the charset of those that declare none (RFC 7578, 4.6). Raises Refusal."""
    texts = [part for part in parts if not part.is_file]
    usual = request.mimetype_params.get("charset", "")
    usual = next((part.content.decode("ascii", "replace") for part in texts if part.name == _CHARSET), usual)
    return {
        part.name: _decoded(part.content, part.charset or usual, part.name) for part in texts if part.name != _CHARSET
    }


def _decoded(data: bytes, charset: str, name: str) -> str:
    try:
        return decode_text(data, charset)
    except UndecodableText as error:
        raise _unreadable(name, str(error)) from error


def _json() -> Any:
    body = request.get_data()
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise _unprocessable(f"the body has more than {_MAX_VALUES:,} values; a meme has four at most")
    charset = request.mimetype_params.get("charset", "")
    # JSON is UTF-8, -16 or -32, which its first bytes tell
    text = body if not charset or charset.lower().startswith("utf") else _decoded(body, charset, "the body")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "Not JSON", f"the body is not JSON: {str(error)[:100] or type(error).__name__}") from error


def _checked(fields: dict[str, Any], shape: type[Shape]) -> Shape:
    """The fields as a struct. Raises Refusal."""
    try:
        return msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        raise _unprocessable(_message(str(error))) from error
    except UnicodeEncodeError as error:
        raise _unprocessable("a field or its value has an unpaired surrogate, which is not a character") from error


def _message(error: str) -> str:
    """msgspec's error message about a path (`$.text`) as one about a field."""
    missing = re.fullmatch(r"Object missing required field `(\w+)`.*", error)
    if missing:
        return f"`{missing[1]}` is missing; send the picture as a file in the form, or as base64 in the JSON"
    unknown = re.match(r"Object contains unknown field `(.*)`", error, re.DOTALL)
    if unknown:
        names = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(MemeRequest))
        return f"unknown field {unknown[1][:50]!r}; a meme has {names}"
    invalid = re.fullmatch(r"Invalid enum value '(.*)' - at `\$\.ocr`", error, re.DOTALL)
    if invalid:
        choices = " or ".join(f'"{choice}"' for choice in get_args(get_args(Ocr)[0]))
        return f"`ocr`: expected {choices}, got {invalid[1][:50]!r}"
    what, _, where = error.rpartition(" - at `$.")
    return f"`{where.removesuffix('`')}`: {what[:1].lower()}{what[1:]}" if what else error


def _unreadable(name: str, why: str) -> Refusal:
    return Refusal(400, "Unreadable text", f"`{name[:50]}`: {why}")


def _unprocessable(detail: str) -> Refusal:
    return Refusal(422, "Unprocessable fields", detail)
