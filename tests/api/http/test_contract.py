"""The application conforms to its /openapi.json, checked by schemathesis."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from api_fakes import PATIENCE, make_client, make_service
from fakes import picture
from flask.testing import FlaskClient
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.schemas import OpenApiSchema
from werkzeug.test import EnvironBuilder

from api.schema import MAX_BODY_BYTES, BatchRequest, MemeForm, MemeRequest
from api.transport.listener import listen

KEY = "a-key-of-this-test"
# hypothesis finds the requests that schemathesis draws expensive to print
OWN_WARNINGS = pytest.mark.filterwarnings("ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning")
PICTURE = base64.b64encode(picture()).decode()
# without a socket there is no address that the relative one of the document could refer to
HERE = {"base-url": "http://localhost"}


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    service = make_service()
    yield make_client(service)
    service.predictor.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[FlaskClient]:
    (tmp_path / "keys").write_text(KEY)
    service = make_service(keys_file=str(tmp_path / "keys"))
    yield make_client(service)
    service.predictor.close()


@dataclass
class Found:
    """The requests and failures of a run of schemathesis."""

    failures: list[str] = field(default_factory=list)
    checks: set[str] = field(default_factory=set)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)


@contextmanager
def served(client: FlaskClient) -> Iterator[str]:
    listener = listen(client.application, "127.0.0.1", 0, 2, MAX_BODY_BYTES)
    thread = Thread(target=listener.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        listener.stop()
        thread.join(PATIENCE)


def disprove(load: Callable[..., OpenApiSchema], *source: Any, examples: int, **config: Any) -> Found:
    """Run all phases of schemathesis but stateful testing: no request depends on another."""
    settings = {
        "seed": 0,
        "continue-on-failure": True,
        "generation": {"deterministic": True, "max-examples": examples},
        # beside the usual ones 413, for a form of many parts; and no 5xx
        "checks": {"negative_data_rejection": {"expected-statuses": ["400", "401", "405", "413", "415", "422"]}},
        "phases": {"stateful": {"enabled": False}},
        **config,
    }
    schema = load(*source, config=SchemathesisConfig.from_dict(settings))
    schema.hook("map_body")(with_pictures)
    schema.hook("filter_failure")(excusing(schema.raw_schema))
    found = Found()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.failures.append(repr(event))
        if isinstance(event, events.ScenarioFinished):
            _note(event, found)
    return found


def _note(event: events.ScenarioFinished, found: Found) -> None:
    for interaction in event.recorder.interactions.values():
        found.statuses[event.recorder.label, interaction.response.status_code] += 1
    for check in (check for checks in event.recorder.checks.values() for check in checks):
        found.checks.add(check.name)
        if check.failure_info:
            failure = check.failure_info
            found.failures.append(f"{event.recorder.label}: {failure.failure.title}\n{failure.code_sample}")


def with_pictures(context: Any, body: Any) -> Any:
    """Replace every other generated picture by a valid one."""
    memes = body.get("memes", [body]) if isinstance(body, dict) else []
    for meme in memes if isinstance(memes, list) else []:
        if isinstance(meme, dict) and isinstance(meme.get("image"), str) and len(meme["image"]) % 2:
            meme["image"] = PICTURE
    return body


def excusing(document: dict[str, Any]) -> Callable[..., bool]:
    """Drop failures that OpenAPI cannot express, and that a batch with a bad meme is accepted."""

    def fits(shape: str, value: Any) -> bool:
        schema = {"$ref": f"#/components/schemas/{shape}", "components": document["components"]}
        return jsonschema_rs.validator_for(schema).is_valid(value)

    def is_failure(context: Any, failure: Failure, case: schemathesis.Case, response: Any) -> bool:
        if isinstance(failure, RejectedPositiveData):  # not every string is a picture
            return not response.json()["detail"].startswith(("image: ", "`image` is not base64"))
        if not isinstance(failure, AcceptedNegativeData) or response.status_code != 200:
            return True
        if case.path == "/predict/batch":
            entries = zip(case.body["memes"], response.json()["predictions"], strict=True)
            bad = [entry for meme, entry in entries if not fits("MemeRequest", meme)]
            return not bad or any(entry.get("error", {}).get("status") != 422 for entry in bad)
        if case.media_type == "multipart/form-data":
            return not fits("MemeForm", on_the_wire(response.request))
        return True

    return is_failure


def on_the_wire(request: Any) -> dict[str, Any]:
    """The fields of a form as sent: null is a string, an empty list is left out. schemathesis does this only without files."""
    sent = EnvironBuilder(method="POST", data=request.body, content_type=request.headers["Content-Type"]).get_request()
    fields: dict[str, Any] = {**sent.form, **dict.fromkeys(sent.files, "")}
    sent.close()
    if fields.get("explain") in ("true", "false"):
        fields["explain"] = fields["explain"] == "true"
    return fields


@OWN_WARNINGS
def test_schemathesis_finds_nothing(client: FlaskClient) -> None:
    found = disprove(schemathesis.openapi.from_wsgi, "/openapi.json", client.application, examples=40, **HERE)
    assert not found.failures, "\n\n".join(found.failures)
    assert found.checks >= {
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
        "negative_data_rejection", "positive_data_acceptance", "unsupported_method", "allow_header_conformance",
    }  # fmt: skip
    for label in ("POST /predict", "POST /predict/batch"):
        assert found.statuses[label, 200] > 10 and found.statuses[label, 422] > 10 and found.statuses[label, 405]


@OWN_WARNINGS
def test_schemathesis_with_keys(locked: FlaskClient) -> None:
    auth = {"openapi": {"key": {"bearer": KEY}}}
    # over a socket: without one, this release fails as soon as it leaves a key out
    with served(locked) as address:
        found = disprove(schemathesis.openapi.from_url, f"{address}/openapi.json", examples=5, auth=auth)
    assert not found.failures, "\n\n".join(found.failures)
    assert "ignored_auth" in found.checks
    for label in ("POST /predict", "POST /predict/batch", "GET /model", "GET /metrics"):
        assert found.statuses[label, 200] and found.statuses[label, 401]


def test_every_route_is_in_the_document(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").get_json()["paths"]
    routes = {
        (rule.rule, method.lower()) for rule in client.application.url_map.iter_rules() for method in rule.methods
    }
    implied = {"head", "options"}
    assert {(path, method) for path, methods in paths.items() for method in methods} == {
        (path, method) for path, method in routes if method not in implied
    }
    assert len(paths) == 8


@pytest.mark.parametrize(
    ("path", "media", "shape", "checked", "call"),
    [("/predict", "multipart/form-data", MemeForm, MemeForm, {"data": {"image": (io.BytesIO(picture()), "x.png")}}),
     ("/predict", "application/json", MemeRequest, MemeRequest, {"json": {"image": PICTURE}}),
     ("/predict/batch", "application/json", BatchRequest, MemeRequest, {"json": {"memes": [{"image": PICTURE}]}})],
)  # fmt: skip
def test_the_document_has_the_request_types(
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    media: str,
    shape: type,
    checked: type,
    call: dict[str, Any],
) -> None:
    document = client.get("/openapi.json").get_json()
    shown = document["paths"][path]["post"]["requestBody"]["content"][media]["schema"]
    assert shown == {"$ref": f"#/components/schemas/{shape.__name__}"}
    _, components = msgspec.json.schema_components([shape], ref_template="#/components/schemas/{name}")
    assert checked.__name__ in components and components.items() <= document["components"]["schemas"].items()
    types: list[type] = []
    convert = msgspec.convert
    monkeypatch.setattr(msgspec, "convert", lambda value, type: types.append(type) or convert(value, type))
    assert client.post(path, **call).status_code == 200
    assert types == [checked]


def test_the_document_has_the_security_of_each_path(client: FlaskClient, locked: FlaskClient) -> None:
    assert "security" not in client.get("/openapi.json").get_data(as_text=True)
    paths = locked.get("/openapi.json").get_json()["paths"]
    asking = {path for path, methods in paths.items() for each in methods.values() if each.get("security")}
    assert asking == {"/predict", "/predict/batch", "/model", "/metrics"}
    assert all("401" in each["responses"] for path in asking for each in paths[path].values())
