"""The HTTP contract: `create_app` makes the Flask application around a predictor.

    POST /predict   multipart form (image, text) or JSON {"image": "<base64>", "text": "..."}
    GET  /          a page to try it by hand
    GET  /healthz   the process is alive;  GET /readyz: it has its model and takes requests

Errors are RFC 9457 `application/problem+json` with a sentence that says what to change. It never fetches, runs or
logs what a caller sends.
"""

import base64
import binascii
import json
import secrets
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from api.prediction import MAX_TEXT_CHARS, Predictor
from embed.pictures import NotAnImage, TooManyPixels, UnreadableImage

# Phone photos reach 12 MB, and base64 adds a third.
MAX_BODY_BYTES = 20_000_000
_MAX_FORM_PARTS = 10
_FIELDS = {"image", "text"}


class Problem(ValueError):
    """A request that cannot be answered; becomes a problem+json with this status and sentence."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


def create_app(predictor: Predictor) -> Flask:
    """The application; `predictor` has its model loaded."""
    app = Flask("api")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES  # a long text is refused by its own rule, with its own words
    app.config["MAX_FORM_PARTS"] = _MAX_FORM_PARTS
    app.json.sort_keys = False  # the label first, as people read it

    @app.post("/predict")
    def predict() -> Response:
        data, text = _read_meme()
        return jsonify(predictor.predict(data, text))

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> Response:
        return jsonify(status="ready", model=predictor.model)

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        response = Response(render_template("page.html", nonce=nonce, model=predictor.model))
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        return response

    _handle_errors(app)
    return app


def problem_json(status: int, title: str, detail: str) -> str:
    """The body of a refusal, RFC 9457."""
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return _problem(error.status, error.title, error.detail)

    @app.errorhandler(UnreadableImage)
    def unreadable(error: UnreadableImage) -> Response:
        status, title = _IMAGE_PROBLEMS.get(type(error), (400, "Unreadable image"))
        return _problem(status, title, f"image: {error}")

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        response = _problem(error.code or 500, error.name, _DETAILS.get(error.code, error.description or ""))
        if error.code == 405:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        app.logger.exception("a request failed")
        return _problem(500, "Internal Server Error", "this is our fault; the server's log says more")

    @app.after_request
    def headers(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response


_IMAGE_PROBLEMS = {NotAnImage: (415, "Not an image"), TooManyPixels: (413, "Image too large")}
_DETAILS = {
    404: "there is no such address; POST /predict classifies a meme, GET / is a page to try it",
    413: f"the body has more than {MAX_BODY_BYTES:,} bytes or {_MAX_FORM_PARTS} parts; send a smaller picture alone",
}


def _read_meme() -> tuple[bytes, str | None]:
    """Image bytes and text of the current request. Raises Problem."""
    if request.mimetype == "multipart/form-data":
        data, fields = _from_form()
    elif request.mimetype == "application/json":
        data, fields = _from_json()
    else:
        raise Problem(
            415,
            "Unsupported media type",
            "send multipart/form-data with a file `image` (and a field `text`), "
            'or application/json {"image": "<base64>", "text": "..."}',
        )
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise _field(f"unknown field {str(min(unknown))[:50]!r}; a meme has `image` and, if known, `text`")
    if data is None:
        raise _field("`image` is missing; send the picture as a file in the form, or as base64 in the JSON")
    text = fields.get("text")
    if not isinstance(text, str | None):
        raise _field("`text` must be a string")
    if text is not None and len(text) > MAX_TEXT_CHARS:
        raise _field(f"`text` has {len(text):,} characters, the limit is {MAX_TEXT_CHARS:,}")
    return data, text


def _from_form() -> tuple[bytes | None, dict[str, Any]]:
    file = request.files.get("image")
    if file is None and "image" in request.form:
        raise _field("`image` came as a text field; send it as a file (curl: -F image=@meme.png)")
    return file.read() if file is not None else None, {**request.files.to_dict(), **request.form.to_dict()}


def _from_json() -> tuple[bytes | None, dict[str, Any]]:
    try:
        fields = json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        raise Problem(400, "Not JSON", f"the body is not JSON: {_short(error)}") from error
    if not isinstance(fields, dict):
        raise _field('the body must be a JSON object {"image": "<base64>", "text": "..."}')
    image = fields.get("image")
    if image is None:
        return None, fields
    if not isinstance(image, str):
        raise _field("`image` must be a string of base64")
    try:
        # `base64 meme.png` and many libraries break the lines
        return base64.b64decode("".join(image.split()), validate=True), fields
    except (binascii.Error, ValueError) as error:
        raise _field("`image` is not base64 (standard alphabet, padded, without a `data:` prefix)") from error


def _field(detail: str) -> Problem:
    return Problem(422, "Unprocessable fields", detail)


def _problem(status: int, title: str, detail: str) -> Response:
    return Response(problem_json(status, title, detail), status, content_type="application/problem+json")


def _short(error: BaseException) -> str:
    return str(error)[:100] or type(error).__name__
