"""The HTTP API: `create_app` makes the Flask application of a service.

    POST /predict         multipart form (image, text) or JSON {"image": "<base64>", "text": "..."}
    POST /predict/batch   JSON {"memes": [{...}, ...]}: one entry per meme, in order
    GET  /                a web page to try it
    GET  /model           the model card;  GET /openapi.json, GET /metrics
    GET  /healthz         the process is alive;  GET /readyz: it accepts requests

Errors are RFC 9457 `application/problem+json`. Content of requests is never fetched or executed, and is logged only with
`log_content`.
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
from api.http.openapi import Operation, openapi, operation, public_paths
from api.http.requests import FORM, JSON, MAX_FORM_PARTS, Refusal, parse_meme, read_batch, read_meme
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
    problem,
)
from cache import content_key
from embed.pictures.decoding import NotAnImage, TooManyPixels, UnreadableImage

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BAD_BODY = (400, 413, 415, 422, 500, 503)


def create_app(service: Service) -> Flask:
    """The application of a service whose model is loaded and warmed up."""
    app = Flask("api", static_folder=None, template_folder="http/templates")
    app.url_map.merge_slashes = False  # /predict//batch is 404, not a redirect
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    _add_predict(app, service)
    _add_info(app, service)
    _add_page(app, service)
    _add_hooks(app, service)
    _handle_errors(app)
    return app


def _add_predict(app: Flask, service: Service) -> None:
    @app.post("/predict")
    @operation(Operation("Classify a meme", Prediction, {FORM: MemeForm, JSON: MemeRequest}, _BAD_BODY))
    def predict() -> Response:
        with service.admission.admit():
            return _respond(_predict(service, read_meme()))

    @app.post("/predict/batch")
    @operation(Operation("Classify several memes", BatchAnswer, {JSON: BatchRequest}, _BAD_BODY))
    def predict_batch() -> Response:
        with service.admission.admit():
            memes = read_batch(service.settings.queue)
            with service.admission.admit(len(memes) - 1):
                return _respond(BatchAnswer(_predict_each(service, memes)))


def _predict_each(service: Service, memes: list[Any]) -> list[Prediction | Refused]:
    """Queue all memes, then wait for them, so that they share batches. A bad meme does not fail the others."""

    def begin(fields: Any) -> Callable[[], Prediction]:
        return _begin(service, parse_meme(fields))

    begun = [_or_refused(partial(begin, fields)) for fields in memes]
    return [one if isinstance(one, Refused) else _or_refused(one) for one in begun]


def _or_refused(step: Callable[[], Result]) -> Result | Refused:
    try:
        return step()
    except (Refusal, UnreadableImage, ModelFailure) as error:
        return Refused(_as_problem(error))


def _predict(service: Service, meme: Meme) -> Prediction:
    prediction = _begin(service, meme)()
    g.log_fields |= {
        "label": prediction.label,
        "probability": prediction.probability,
        "text_source": prediction.text.source,
    }
    return prediction


def _begin(service: Service, meme: Meme) -> Callable[[], Prediction]:
    if service.settings.log_content:
        g.log_fields.setdefault("memes", []).append({"image_sha256": content_key(meme.data), "text": meme.text})
    return service.begin(meme, g.request_id)


def _add_info(app: Flask, service: Service) -> None:
    """The routes about the server itself."""

    @app.get("/healthz")
    @operation(Operation("The process is alive", Health, public=True))
    def healthz() -> Response:
        return _respond(Health("ok"))

    @app.get("/readyz")
    @operation(Operation("The model is loaded and requests are accepted", Ready, problems=(503,), public=True))
    def readyz() -> Response:
        if service.stopping:
            raise Overloaded("the server is stopping; send the request to another one")
        return _respond(Ready("ready", service.predictor.model))

    @app.get("/model")
    @operation(Operation("The model card", ModelCard))
    def model() -> Response:
        return _respond(service.card)

    @app.get("/metrics")
    @operation(Operation("Prometheus metrics", "text/plain"))
    def metrics() -> Response:
        return Response(service.metrics.text(), content_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json")
    @operation(Operation("This document", dict, public=True))
    def contract() -> Response:
        return _respond(openapi(app, service.predictor.model.version, service.requires_key))


def _add_page(app: Flask, service: Service) -> None:
    @app.get("/")
    @operation(Operation("A web page to try it", "text/html", public=True))
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        html = render_template(
            "page.html",
            nonce=nonce,
            card=service.card,
            requires_key=service.requires_key,
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


def _add_hooks(app: Flask, service: Service) -> None:
    """Request ids, API keys, headers, log and metrics of every request."""
    public = public_paths(app)

    @app.before_request
    def begin() -> None:
        g.started, g.log_fields = perf_counter(), {}
        own = request.headers.get("X-Request-ID", "")
        g.request_id = own if _REQUEST_ID.fullmatch(own) else uuid.uuid4().hex
        if service.requires_key and request.method != "OPTIONS" and request.path not in public:
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not service.is_valid_key(key.strip()):
                raise Refusal(401, "Unauthorized", "send one of the server's API keys: `Authorization: Bearer <key>`")

    @app.after_request
    def end(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["X-Request-ID"] = g.request_id
        origin = service.settings.cors_origin
        if origin:
            response.headers.update(_cors(origin))
        seconds = perf_counter() - g.started
        # a fixed set of labels: clients could otherwise create any number of time series
        path = request.url_rule.rule if request.url_rule else "other"
        method = request.method if request.method in _METHODS else "other"
        service.metrics.requests.labels(path, method, response.status_code).inc()
        service.metrics.latency.labels(path).observe(seconds)
        _log.info(
            "request",
            extra={
                "request_id": g.request_id, "method": method, "path": path, "status": response.status_code,
                "ms": round(1000 * seconds, 1), "remote": request.remote_addr, **g.log_fields,
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
        response = _respond(_as_problem(error))
        if isinstance(error, Overloaded):
            response.headers["Retry-After"] = str(error.retry_after)
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response

    @app.errorhandler(Exception)
    def internal_error(error: Exception) -> Response:
        _log.exception("a request failed", extra={"request_id": g.request_id})
        return _respond(_as_problem(error))


_IMAGE_PROBLEMS = {NotAnImage: (415, "Not an image"), TooManyPixels: (413, "Image too large")}
_DETAILS = {
    404: "there is no such path; POST /predict classifies a meme, GET / is a page to try it",
    413: f"the body has more than {MAX_BODY_BYTES:,} bytes or {MAX_FORM_PARTS} parts; send a smaller picture alone",
}


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Refusal):
        found = error.status, error.title, error.detail
    elif isinstance(error, UnreadableImage):
        found = *_IMAGE_PROBLEMS.get(type(error), (400, "Unreadable image")), f"image: {error}"
    elif isinstance(error, Overloaded):
        found = 503, "Service Unavailable", str(error)
    elif isinstance(error, HTTPException):
        code = error.code or 500
        found = code, error.name, _DETAILS.get(code, error.description or "")
    else:
        found = 500, "Internal Server Error", "an error of the server; its log says more"
    status, title, detail = found
    return problem(title, status, detail, g.request_id)


def _respond(value: Any) -> Response:
    if isinstance(value, Problem):
        return Response(msgspec.json.encode(value), value.status, content_type="application/problem+json")
    return Response(msgspec.json.encode(value), content_type="application/json")
