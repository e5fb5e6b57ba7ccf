"""The HTTP contract: `create_app` makes the Flask application around a service.

    POST /predict         multipart form (image, text) or JSON {"image": "<base64>", "text": "..."}
    POST /predict/batch   JSON {"memes": [{...}, ...]}: one entry for each, in order
    GET  /                a page to try it by hand
    GET  /model           the model card;  GET /openapi.json, GET /metrics
    GET  /healthz         the process is alive;  GET /readyz: it has its model and takes requests

Errors are RFC 9457 `application/problem+json` with a sentence that says what to change. It never fetches or runs what a
caller sends, and logs it only where `log_content` asks for that.
"""

import logging
import re
import secrets
import uuid
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from flask import Flask, Response, g, render_template, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from api.http.admission import Overloaded
from api.http.openapi import Operation, open_paths, openapi, operation
from api.http.requests import FORM, JSON, InMemoryRequest, Refusal, meme_of, read_batch, read_meme
from api.http.service import Service
from api.model.batching import ModelFailure
from api.model.prediction import Meme
from api.schema import (
    HEADERS,
    MAX_BODY_BYTES,
    MAX_TEXT_CHARS,
    BatchAnswer,
    BatchRequest,
    Health,
    MemeForm,
    MemeRequest,
    ModelCard,
    Prediction,
    Problem,
    Ready,
    Refused,
)
from cache import content_key
from embed.pictures.decoding import NotAnImage, TooManyPixels, UnreadableImage

_log = logging.getLogger(__name__)
Made = TypeVar("Made")
_MAX_FORM_PARTS = 10
_OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BAD_BODY = (400, 413, 415, 422, 500, 503)


def create_app(service: Service) -> Flask:
    """The application; `service` has its model loaded and warm."""
    app = Flask("api", static_folder=None, template_folder="http/templates")
    app.request_class = InMemoryRequest
    app.url_map.merge_slashes = False  # /predict//batch is no address, not a redirect to one
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES  # a long text is refused by its own rule, with its own words
    app.config["MAX_FORM_PARTS"] = _MAX_FORM_PARTS
    _predict(app, service)
    _tell(app, service)
    _page(app, service)
    _identify(app, service)
    _handle_errors(app)
    return app


def _predict(app: Flask, service: Service) -> None:
    @app.post("/predict")
    @operation(Operation("Judge a meme", Prediction, {FORM: MemeForm, JSON: MemeRequest}, _BAD_BODY))
    def predict() -> Response:
        with service.admission.places():
            return _answer(_judged(service, read_meme()))

    @app.post("/predict/batch")
    @operation(Operation("Judge several memes", BatchAnswer, {JSON: BatchRequest}, _BAD_BODY))
    def predict_batch() -> Response:
        with service.admission.places():
            memes = read_batch(service.settings.queue)
            with service.admission.places(len(memes) - 1):
                return _answer(BatchAnswer(_each(service, memes)))


def _each(service: Service, memes: list[Any]) -> list[Prediction | Refused]:
    """All are queued before the first answer is waited for, so that they run together; one bad meme fails alone."""

    def begin(fields: Any) -> Callable[[], Prediction]:
        return _begun(service, meme_of(fields))

    begun = [_or_refused(partial(begin, fields)) for fields in memes]
    return [one if isinstance(one, Refused) else _or_refused(one) for one in begun]


def _or_refused(step: Callable[[], Made]) -> Made | Refused:
    try:
        return step()
    except (Refusal, UnreadableImage, ModelFailure) as error:
        return Refused(_as_problem(error))


def _judged(service: Service, meme: Meme) -> Prediction:
    prediction = _begun(service, meme)()
    said = {"label": prediction.label, "probability": prediction.probability, "text_source": prediction.text.source}
    g.noted |= said
    return prediction


def _begun(service: Service, meme: Meme) -> Callable[[], Prediction]:
    if service.settings.log_content:
        g.noted.setdefault("memes", []).append({"image_sha256": content_key(meme.data), "text": meme.text})
    return service.begin(meme, g.request_id)


def _tell(app: Flask, service: Service) -> None:
    """Everything about the server itself."""

    @app.get("/healthz")
    @operation(Operation("The process is alive", Health, open_to_all=True))
    def healthz() -> Response:
        return _answer(Health("ok"))

    @app.get("/readyz")
    @operation(Operation("It has its model, warm, and takes requests", Ready, problems=(503,), open_to_all=True))
    def readyz() -> Response:
        if service.stopping:
            raise Overloaded("the server is stopping; ask another one")
        return _answer(Ready("ready", service.predictor.model))

    @app.get("/model")
    @operation(Operation("The model card", ModelCard))
    def model() -> Response:
        return _answer(service.card)

    @app.get("/metrics")
    @operation(Operation("Prometheus metrics", "text/plain"))
    def metrics() -> Response:
        return Response(service.metrics.text(), content_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json")
    @operation(Operation("This document", dict, open_to_all=True))
    def contract() -> Response:
        return _answer(openapi(app, service.predictor.model.version, service.wants_key))


def _page(app: Flask, service: Service) -> None:
    @app.get("/")
    @operation(Operation("A page to try it by hand", "text/html", open_to_all=True))
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        html = render_template(
            "page.html",
            nonce=nonce,
            card=service.card,
            wants_key=service.wants_key,
            reads=service.predictor.reader is not None,
            most_chars=MAX_TEXT_CHARS,
            most_bytes=MAX_BODY_BYTES,
        )
        response = Response(html)
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        return response


def _identify(app: Flask, service: Service) -> None:
    """Request ids, keys, headers, the log's line and the counts of every request."""
    without_key = open_paths(app)

    @app.before_request
    def begin() -> None:
        g.started, g.noted = perf_counter(), {}
        own = request.headers.get("X-Request-ID", "")
        g.request_id = own if _OWN_ID.fullmatch(own) else uuid.uuid4().hex
        if service.wants_key and request.method != "OPTIONS" and request.path not in without_key:
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not service.knows_key(key.strip()):
                raise Refusal(401, "Unauthorized", "send one of the server's API keys: `Authorization: Bearer <key>`")

    @app.after_request
    def end(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["X-Request-ID"] = g.request_id
        origin = service.settings.cors_origin
        if origin:
            response.headers.update(_cors(origin))
        seconds = perf_counter() - g.started
        # neither may be made up by callers, who could otherwise fill the memory with new ones
        path = request.url_rule.rule if request.url_rule else "other"
        method = request.method if request.method in _METHODS else "other"
        service.metrics.requests.labels(path, method, response.status_code).inc()
        service.metrics.latency.labels(path).observe(seconds)
        _log.info(
            "request",
            extra={
                "request_id": g.request_id, "method": method, "path": path, "status": response.status_code,
                "ms": round(1000 * seconds, 1), "remote": request.remote_addr, **g.noted,
            },
        )  # fmt: skip
        return response


def _cors(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-ID",
        "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
        "Vary": "Origin",
    }


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(Refusal)
    @app.errorhandler(UnreadableImage)
    @app.errorhandler(ModelFailure)
    @app.errorhandler(Overloaded)
    @app.errorhandler(HTTPException)
    def refused(error: Exception) -> Response:
        response = _answer(_as_problem(error))
        if isinstance(error, Overloaded):
            response.headers["Retry-After"] = str(error.retry_after)
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        _log.exception("a request failed", extra={"request_id": g.request_id})
        return _answer(_as_problem(error))


_IMAGE_PROBLEMS = {NotAnImage: (415, "Not an image"), TooManyPixels: (413, "Image too large")}
_DETAILS = {
    404: "there is no such address; POST /predict classifies a meme, GET / is a page to try it",
    413: f"the body has more than {MAX_BODY_BYTES:,} bytes or {_MAX_FORM_PARTS} parts; send a smaller picture alone",
}


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Refusal):
        told = error.status, error.title, error.detail
    elif isinstance(error, UnreadableImage):
        told = *_IMAGE_PROBLEMS.get(type(error), (400, "Unreadable image")), f"image: {error}"
    elif isinstance(error, Overloaded):
        told = 503, "Service Unavailable", str(error)
    elif isinstance(error, HTTPException):
        code = error.code or 500
        told = code, error.name, _DETAILS.get(code, error.description or "")
    else:
        told = 500, "Internal Server Error", "this is our fault; the server's log says more"
    status, title, detail = told
    return Problem("about:blank", title, status, detail, g.request_id)


def _answer(value: Any) -> Response:
    if isinstance(value, Problem):
        return Response(msgspec.json.encode(value), value.status, content_type="application/problem+json")
    return Response(msgspec.json.encode(value), content_type="application/json")
