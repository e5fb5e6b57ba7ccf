"""Parses the memes of the current request, a form or JSON. The input is not trusted; every error is a Refusal."""

import base64
import io
import json
import re
import string
from typing import Any, TypeVar, get_args

import msgspec
from flask import Request, request

from api.model.prediction import Meme
from api.schema import MAX_BATCH, BatchRequest, MemeForm, MemeRequest, Ocr

FORM, JSON = "multipart/form-data", "application/json"
_AS_FORM = f"{FORM} with a file `image` (and a field `text`)"
_AS_JSON = JSON + ' {"image": "<base64>", "text": "..."}'
_WHITE = string.whitespace.encode()
# 16 texts of commas only have 80,000. Parsing 20 MB of `[],[],` would take 500 MB and hold the GIL for 3 s.
_MAX_VALUES = 100_000
# Form fields are strings.
_WORDS = {"true": True, "false": False}
Shape = TypeVar("Shape")


class Refusal(ValueError):
    """A bad request; becomes a problem+json response with this status, title and detail."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class InMemoryRequest(Request):
    """Keeps uploaded files in memory; their size is limited with the body. werkzeug would spool large ones to disk, and
    leave those of a refused form open."""

    def _get_file_stream(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO()


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
    # a part may have no name
    texts = [(name or "", value) for name, value in request.form.items(multi=True)]
    files = [(name or "", file) for name, file in request.files.items(multi=True)]
    names = [name for name, _ in (*texts, *files)]
    if not names:
        raise Refusal(
            400, "Not a form", "no part of the form could be read: it is empty, cut off, or lacks its boundary"
        )
    for name in names:
        if names.count(name) > 1:
            raise _unprocessable(f"{name[:50]!r} was sent more than once; send one meme, or several to /predict/batch")
    fields: dict[str, Any] = dict(texts)
    if "image" in fields:
        raise _unprocessable("`image` was sent as a text field; send it as a file (curl: -F image=@meme.png)")
    for name, picture in files:
        if name != "image":
            raise _unprocessable(f"file {name[:50]!r}: only `image` is a file")
        fields["image"] = picture.read()
    if "explain" in fields:
        fields["explain"] = _WORDS.get(fields["explain"].lower(), fields["explain"])
    sent = _checked(fields, MemeForm)
    return Meme(sent.image, sent.text, sent.ocr != "off", sent.explain)


def _json() -> Any:
    body = request.get_data()
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise _unprocessable(f"the body has more than {_MAX_VALUES:,} values; a meme has four at most")
    try:
        return json.loads(body)
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


def _unprocessable(detail: str) -> Refusal:
    return Refusal(422, "Unprocessable fields", detail)
