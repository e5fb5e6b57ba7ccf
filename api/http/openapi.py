"""`/openapi.json`, generated from the application's routes and the request and response types."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from flask import Flask

from api.schema import REFS, Prediction, Problem, Refused

_TITLE = "Is this meme offensive?"
_PROBLEM = "application/problem+json"
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """Describes a view. bodies: {media type: type} of requests; answer: type of a JSON response, or another media type;
    problems: error statuses; public: needs no API key."""

    summary: str
    answer: type | str
    bodies: dict[str, type] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    public: bool = False


def operation(described: Operation) -> Callable[[View], View]:
    """Attach the description to a view."""

    def note(view: View) -> View:
        vars(view)["operation"] = described
        return view

    return note


def public_paths(app: Flask) -> set[str]:
    """The paths that need no API key."""
    return {path for (path, _), each in _operations(app).items() if each.public}


def openapi(app: Flask, version: str, requires_key: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document. version: of the model."""
    described = _operations(app)
    types: dict[type, None] = dict.fromkeys((Problem, Prediction, Refused))
    for each in described.values():
        types |= dict.fromkeys((*each.bodies.values(), *([each.answer] if isinstance(each.answer, type) else [])))
    shapes, components = msgspec.json.schema_components(types, ref_template=REFS)
    shape = dict(zip(types, shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), each in described.items():
        paths.setdefault(path, {})[method] = _described(each, shape, requires_key)
    security = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if requires_key else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": version},
        "servers": [{"url": "."}],  # relative to this document, so behind a proxy's path prefix, too
        "paths": paths,
        "components": {"schemas": components, **security},
    }


def _operations(app: Flask) -> dict[tuple[str, str], Operation]:
    """By path and method."""
    return {
        (rule.rule, method.lower()): vars(app.view_functions[rule.endpoint])["operation"]
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    }


def _described(each: Operation, shape: dict[type, Any], requires_key: bool) -> dict[str, Any]:
    locked = requires_key and not each.public
    good = {"application/json": {"schema": shape[each.answer]}} if isinstance(each.answer, type) else {each.answer: {}}
    problem = {_PROBLEM: {"schema": shape[Problem]}}
    statuses = (*each.problems, *([401] if locked else []))
    return {
        "summary": each.summary,
        **({"requestBody": _body(each, shape)} if each.bodies else {}),
        "responses": {
            "200": {"description": "OK", "content": good},
            **{str(s): {"description": HTTPStatus(s).phrase, "content": problem} for s in sorted(statuses)},
        },
        **({"security": [{"key": []}]} if locked else {}),
    }


def _body(each: Operation, shape: dict[type, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": shape[kind]} for media, kind in each.bodies.items()}}
