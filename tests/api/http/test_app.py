"""The HTTP API with a fake model: responses, errors, keys, headers, logs and metrics."""

import base64
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import api_fakes
import pytest
from api_fakes import CARD, PATIENCE, FakeClassifier, make_client, make_service
from fakes import picture
from flask.testing import FlaskClient
from msgspec.structs import replace

from api.http.service import Service
from api.model.card import served_model
from api.schema import MAX_BATCH, MAX_BODY_BYTES, MAX_TEXT_CHARS
from cache import NOTICE, content_key, demo
from embed.pictures.decoding import UnreadableImage

Make = Callable[..., FlaskClient]
KEY = "a-key-of-this-test"
PROBLEM = {"type", "code", "title", "status", "detail", "request_id"}


@pytest.fixture
def services() -> Iterator[list[Service]]:
    """The services of the test, closed after it."""
    made: list[Service] = []
    yield made
    for service in made:
        service.predictor.close()


@pytest.fixture
def make(services: list[Service]) -> Make:
    """A client of a new service with these settings."""

    def client(*arguments: Any, **settings: Any) -> FlaskClient:
        services.append(make_service(*arguments, **settings))
        return make_client(services[-1])

    return client


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def client(make: Make, classifier: FakeClassifier) -> FlaskClient:
    return make(classifier)


@pytest.fixture
def locked(make: Make, tmp_path: Path) -> FlaskClient:
    (tmp_path / "keys").write_text(f"# for tests\n{KEY}\nanother-key-of-this-test\n")
    return make(keys_file=str(tmp_path / "keys"))


def as_form(data: bytes, **fields: Any) -> dict[str, Any]:
    words = {name: json.dumps(value) if isinstance(value, bool) else value for name, value in fields.items()}
    return {"data": {"image": (io.BytesIO(data), "x.png"), **words}}


def as_json(data: bytes, **fields: Any) -> dict[str, Any]:
    return {"json": meme(data, **fields)}


def meme(data: bytes, **fields: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(data).decode(), **fields}


def body(text: str | bytes, kind: str = "application/json") -> dict[str, Any]:
    return {"data": text, "content_type": kind}


def raw_form(name: str, value: bytes) -> bytes:
    """A form with one text field, encoded here: the test client leaves a temporary file open for a large one."""
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n' % (name.encode(), value)


def problem_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert problem.keys() == PROBLEM and problem["status"] == status and problem["title"]
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem


# What is answered


@pytest.mark.parametrize("shape", [as_form, as_json])
def test_predict_response(client: FlaskClient, shape: Any) -> None:
    response = client.post("/predict", **shape(picture(), text="sneer"))
    answer = response.get_json()
    assert response.status_code == 200 and response.content_type == "application/json"
    assert answer.pop("request_id") == response.headers["X-Request-ID"]
    assert answer == {
        "label": "offensive",
        "probability": 0.5,
        "probabilities": {"offensive": 0.5, "non-offensive": 0.5},
        "threshold": 0.4,
        "text": {"value": "sneer", "source": "request"},
        "model": {"name": "fake", "version": "0123"},
    }


@pytest.mark.parametrize("shape", [as_form, as_json])
@pytest.mark.parametrize("fields", [{}, {"text": ""}, {"text": " \n\0 "}])
def test_a_text_is_optional(client: FlaskClient, shape: Any, fields: dict[str, str]) -> None:
    answer = client.post("/predict", **shape(picture(), **fields)).get_json()
    assert answer["text"] == {"value": "", "source": "none"} and answer["label"] == "non-offensive"


def test_null_is_no_text_in_json_but_a_string_in_a_form(client: FlaskClient) -> None:
    texts = [client.post("/predict", **call).get_json()["text"]
             for call in (as_json(picture(), text=None), as_form(picture(), text="null"))]  # fmt: skip
    assert texts == [{"value": "", "source": "none"}, {"value": "null", "source": "request"}]


def test_the_threshold_itself_is_offensive(client: FlaskClient) -> None:
    assert client.post("/predict", **as_form(picture(), text="four")).get_json()["label"] == "offensive"
    assert client.post("/predict", **as_form(picture(), text="abc")).get_json()["label"] == "non-offensive"


@pytest.mark.parametrize(
    ("text", "label"),
    [("ab", "non-offensive"), ("abc", "review"), ("four", "review"), ("sneer", "review"), ("sneers", "offensive")],
)
def test_the_label_in_the_review_band(make: Make, text: str, label: str) -> None:
    client = make(FakeClassifier({"low": 0.3, "high": 0.6}))
    answer = client.post("/predict", **as_form(picture(), text=text)).get_json()
    assert answer["label"] == label and answer["probability"] == len(text) / 10
    assert answer["threshold"] == 0.4 and answer["review"] == {"low": 0.3, "high": 0.6}


@pytest.mark.parametrize(("text", "label"), [("abc", "non-offensive"), ("four", "offensive")])
def test_an_empty_review_band(make: Make, text: str, label: str) -> None:
    client = make(FakeClassifier({"low": 0.4, "high": 0.4}))
    assert client.post("/predict", **as_form(picture(), text=text)).get_json()["label"] == label


@pytest.mark.parametrize(
    ("sent", "judged"),
    [("nul\0here", "nul here"), ("  ends \n", "ends"), ("lone \ud83d", "lone ?"), ("🤷 مرحبا", "🤷 مرحبا"),
     ("\u202eevil", "\u202eevil"), ("a" * MAX_TEXT_CHARS, "a" * MAX_TEXT_CHARS)],
)  # fmt: skip
def test_the_response_has_the_classified_text(client: FlaskClient, sent: str, judged: str) -> None:
    response = client.post("/predict", **body(json.dumps(meme(picture(), text=sent))))
    assert response.status_code == 200 and response.get_json()["text"] == {"value": judged, "source": "request"}
    assert response.get_json()["probability"] == min(1, len(judged) / 10)


def test_base64_may_have_line_breaks(client: FlaskClient) -> None:
    image = base64.encodebytes(picture()).decode().replace("\n", "\r\n")
    assert "\r\n" in image
    assert client.post("/predict", json={"image": image}).status_code == 200


# Reading the words on a picture


@pytest.mark.parametrize("shape", [as_form, as_json])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, {"value": "read it", "source": "ocr"}),
        ({"text": "  "}, {"value": "read it", "source": "ocr"}),
        ({"ocr": "auto"}, {"value": "read it", "source": "ocr"}),
        ({"ocr": "off"}, {"value": "", "source": "none"}),
        ({"text": "mine"}, {"value": "mine", "source": "request"}),
    ],
)
def test_ocr_without_a_text(make: Make, shape: Any, fields: dict[str, str], text: dict[str, str]) -> None:
    answer = make(None, lambda data: " read\0it ").post("/predict", **shape(picture(), **fields)).get_json()
    assert answer["text"] == text and answer["probability"] == len(text["value"]) / 10


def test_ocr_that_finds_no_text(make: Make) -> None:
    answer = make(None, lambda data: "").post("/predict", **as_form(picture())).get_json()
    assert answer["text"] == {"value": "", "source": "ocr"}


def test_a_picture_that_ocr_cannot_decode_is_refused(make: Make) -> None:
    def refuse(data: bytes) -> str:
        raise UnreadableImage("too odd to be read")

    assert "too odd" in problem_of(make(None, refuse).post("/predict", **as_form(picture())), 400)["detail"]


# Why


@pytest.mark.parametrize("shape", [as_form, as_json])
@pytest.mark.parametrize("explain", [True, False])
def test_an_explanation_on_request(client: FlaskClient, shape: Any, explain: bool) -> None:
    answer = client.post("/predict", **shape(picture(), text="sneer", explain=explain)).get_json()
    assert ("explanation" in answer) == explain
    if explain:
        told = answer["explanation"]
        assert told.keys() - {"note"} == {"image_alone", "text_alone", "both", "neighbours"}
        assert told["both"] == 0.5


# Refusals


@pytest.mark.parametrize(
    ("call", "status", "sentence"),
    [
        ({}, 415, "multipart/form-data"),
        (body(picture(), "image/png"), 415, "multipart/form-data"),
        (body("image=abc", "application/x-www-form-urlencoded"), 415, "multipart/form-data"),
        ({"data": {"text": "x"}, "content_type": "multipart/form-data"}, 422, "`image` is missing"),
        (body("not a form", "multipart/form-data"), 400, "lacks its boundary"),
        ({"data": {"image": "x"}, "content_type": "multipart/form-data"}, 422, "send it as a file"),
        (as_form(b"hello"), 415, "not an image"),
        (as_form(b""), 400, "empty"),
        (as_form(picture(size=(64, 64))[:-2000]), 400, "cut off"),
        (as_form(picture(size=(1, 400))), 413, "one side"),
        (as_form(picture(), txet="typo"), 422, "unknown field 'txet'; a meme has `image`, `text`, `ocr`, `explain`"),
        (as_form(picture(), text="x" * (MAX_TEXT_CHARS + 1)), 422, "`text`: expected `str` of length <= 5000"),
        (as_form(picture(), ocr="yes"), 422, '`ocr`: expected "auto" or "off", got \'yes\''),
        (as_form(picture(), explain="maybe"), 422, "`explain`: expected `bool`"),
        (as_form(picture(), text=["a", "b"]), 422, "'text' was sent more than once"),
        (as_form(picture(), image2=(io.BytesIO(b""), "y")), 422, "file 'image2': only `image` is a file"),
        (body(raw_form("text", b"x" * 1_000_000), "multipart/form-data; boundary=b"), 422, "of length <= 5000"),
        (as_form(picture(), **{f"f{i}": "x" for i in range(50)}), 413, "parts"),
        (body("{"), 400, "not JSON"),
        (body(""), 400, "not JSON"),
        (body("[1]"), 422, "JSON object"),
        (body('{"text": "x"}'), 422, "`image` is missing"),
        (body('{"image": 7}'), 422, "`image`: expected `str`, got `int`"),
        (body('{"image": "%%%"}'), 422, "not base64"),
        (body('{"image": "data:image/png;base64,AAAA"}'), 422, "not base64"),
        (body('{"image": "aGVsbG8="}'), 415, "not an image"),
        (body('{"image": "", "text": 7}'), 422, "`text`: expected `str | null`, got `int`"),
        (body('{"image": "", "explain": 1}'), 422, "`explain`: expected `bool`"),
        (body('{"image": "", "model": "x"}'), 422, "unknown field 'model'"),
    ],
)
def test_refusals_are_problem_json(client: FlaskClient, call: dict[str, Any], status: int, sentence: str) -> None:
    assert sentence in problem_of(client.post("/predict", **call), status)["detail"]


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    response = client.post("/predict", **body(b"x" * (MAX_BODY_BYTES + 1)))
    assert "the body has more" in problem_of(response, 413)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "OPTIONS, POST"), ("PUT", "/predict/batch", "OPTIONS, POST"),
     ("POST", "/model", "GET, HEAD, OPTIONS"), ("BREW", "/", "GET, HEAD, OPTIONS")],
)  # fmt: skip
def test_405_names_the_allowed_methods(client: FlaskClient, method: str, path: str, allowed: str) -> None:
    response = client.open(path, method=method)
    problem_of(response, 405)
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "/predict//batch", "/static/page.html", "/predict/batch/1"])
def test_404_names_the_paths(client: FlaskClient, path: str) -> None:
    assert "POST /predict" in problem_of(client.post(path), 404)["detail"]


def test_an_internal_error_is_500_without_details(
    client: FlaskClient, services: list[Service], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError("/a/secret/path")

    with monkeypatch.context() as broken:
        broken.setattr(services[0].predictor, "begin", fail)
        response = client.post("/predict", **as_form(picture()))
    problem = problem_of(response, 500)
    assert b"secret" not in response.data and "error of the server" in problem["detail"]
    told = [record for record in caplog.records if record.exc_info]
    assert [record.request_id for record in told] == [problem["request_id"]] and "a/secret/path" in caplog.text
    assert client.post("/predict", **as_form(picture())).status_code == 200


def test_a_model_failure_is_500_for_its_batch_only(
    client: FlaskClient, classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    classifier.broken = RuntimeError("a secret from inside")
    response = client.post("/predict", **as_form(picture()))
    problem_of(response, 500)
    assert b"secret" not in response.data and "a secret from inside" in caplog.text
    classifier.broken = None
    assert client.post("/predict", **as_form(picture())).status_code == 200


# Several at once


def test_a_batch_is_answered_in_order_with_few_calls_of_the_model(
    client: FlaskClient, classifier: FakeClassifier
) -> None:
    memes = [meme(picture(seed), text="x" * seed) for seed in range(MAX_BATCH)]
    response = client.post("/predict/batch", json={"memes": memes})
    answers = response.get_json()["predictions"]
    assert response.status_code == 200
    assert [answer["text"]["value"] for answer in answers] == [one["text"] for one in memes]
    assert [answer["probability"] for answer in answers] == [min(1, seed / 10) for seed in range(MAX_BATCH)]
    assert {answer["request_id"] for answer in answers} == {response.headers["X-Request-ID"]}
    images = [count for kind, count in classifier.encoded if kind == "image"]
    assert sum(images) == MAX_BATCH and max(images) > 1


def test_a_bad_meme_does_not_fail_its_batch(client: FlaskClient) -> None:
    good = meme(picture(), text="sneer")
    memes = [good, meme(b"hello"), {"text": "x"}, 7, meme(picture()[:-50]), {**good, "ocr": "\ud83d"}, good]
    response = client.post("/predict/batch", **body(json.dumps({"memes": memes})))
    answers = response.get_json()["predictions"]
    assert response.status_code == 200
    assert [answer.get("error", {}).get("status", 200) for answer in answers] == [200, 415, 422, 422, 400, 422, 200]
    assert all(answer["error"].keys() == PROBLEM for answer in answers[1:-1])
    assert answers[0] == answers[-1] and answers[0]["probability"] == 0.5


def test_a_model_failure_is_an_error_of_each_meme_of_the_batch(client: FlaskClient, classifier: FakeClassifier) -> None:
    classifier.broken = RuntimeError("a secret from inside")
    response = client.post("/predict/batch", json={"memes": [meme(picture()), meme(b"")]})
    assert response.status_code == 200 and b"secret" not in response.data
    assert [answer["error"]["status"] for answer in response.get_json()["predictions"]] == [500, 400]


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        ({"memes": []}, 422, "`memes` has 0 entries, expected 1 to 16"),
        ({"memes": [{"image": ""}] * 17}, 422, "`memes` has 17 entries"),
        ({"memes": {"image": ""}}, 422, "JSON object"),
        ({}, 422, "JSON object"),
        ([], 422, "JSON object"),
        ({"memes": [{"image": ""}], "text": "x"}, 422, "unknown field 'text'"),
        ({"memes": [[]] * 100_001}, 422, "more than 100,000 values"),
    ],
)
def test_invalid_batches_are_refused(client: FlaskClient, sent: Any, status: int, sentence: str) -> None:
    assert sentence in problem_of(client.post("/predict/batch", json=sent), status)["detail"]


def test_a_batch_must_be_json(client: FlaskClient) -> None:
    assert "application/json" in problem_of(client.post("/predict/batch", **as_form(picture())), 415)["detail"]


def test_a_batch_of_sixteen_longest_texts(client: FlaskClient) -> None:
    memes = [meme(picture(), text=sign * MAX_TEXT_CHARS) for sign in ",[{\U0001f937" * 4]
    response = client.post("/predict/batch", json={"memes": memes})
    assert [answer["probability"] for answer in response.get_json()["predictions"]] == [1.0] * 16


# Too many at once


@contextmanager
def held(classifier: FakeClassifier, call: Callable[[], Any]) -> Iterator[list[Any]]:
    """While a request waits in the model; its response is in the list afterwards."""
    classifier.may_run.clear()
    answers: list[Any] = []
    thread = Thread(target=lambda: answers.append(call()))
    thread.start()
    try:
        assert classifier.began.acquire(timeout=PATIENCE)
        yield answers
    finally:
        classifier.may_run.set()
        thread.join(PATIENCE)


@pytest.mark.parametrize(("queue", "status"), [(5, 503), (6, 200)])
def test_each_meme_of_a_batch_counts_for_admission(
    make: Make, classifier: FakeClassifier, queue: int, status: int
) -> None:
    client = make(classifier, queue=queue)
    five = {"memes": [meme(picture(seed)) for seed in range(5)]}
    with held(classifier, lambda: client.application.test_client().post("/predict/batch", json=five)) as first:
        if status == 503:
            response = client.post("/predict", **as_form(picture()))
            assert "5 memes are being processed" in problem_of(response, 503)["detail"]
            assert response.headers["Retry-After"] == "1"
            assert b"meme_under_way 5.0" in client.get("/metrics").data
            assert client.get("/readyz").status_code == 200
        else:
            response = client.post("/predict/batch", json={"memes": five["memes"][:2]})
            assert problem_of(response, 503) and response.headers["Retry-After"] == "1"
    assert first[0].status_code == 200
    assert client.post("/predict", **as_form(picture())).status_code == 200, "the places are free again"
    assert b"meme_under_way 0.0" in client.get("/metrics").data


@pytest.mark.parametrize("call", [as_json(b"hello"), body("{")])
def test_a_refused_request_is_no_longer_in_progress(make: Make, call: dict[str, Any]) -> None:
    client = make(queue=1)
    for path in ("/predict", "/predict/batch"):
        assert [client.post(path, **call).status_code // 100 for _ in range(2)] == [4, 4]


# Keys


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json"])
def test_paths_without_a_key(locked: FlaskClient, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    "header",
    [None, KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer # for tests",
     "Bearer \xe9", "Bearer " + "x" * 8_000],
)  # fmt: skip
def test_other_paths_require_a_key(locked: FlaskClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    asked = ["POST /predict", "POST /predict/batch", "GET /model", "GET /metrics", "GET /predict", "GET /nowhere"]
    for method, path in (one.split() for one in asked):
        response = locked.open(path, method=method, headers=headers)
        problem_of(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer" and KEY.encode() not in response.data


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer  {KEY} ", "Bearer another-key-of-this-test"])
def test_a_valid_key_is_accepted(locked: FlaskClient, header: str) -> None:
    headers = {"Authorization": header}
    assert locked.post("/predict", **as_form(picture()), headers=headers).status_code == 200
    assert locked.get("/model", headers=headers).status_code == 200
    problem_of(locked.get("/nowhere", headers=headers), 404)


def test_keys_are_not_logged(locked: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (KEY, "a-wrong-key-of-this-test"):
        locked.get("/model", headers={"Authorization": f"Bearer {key}"})
    assert len(caplog.records) == 2 and not any("key-of-this" in str(vars(record)) for record in caplog.records)


# Headers


def test_no_cors_by_default(make: Make) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for path, method in (("/predict", "OPTIONS"), ("/healthz", "GET")):
        response = make().open(path, method=method, headers=headers)
        assert response.status_code == 200 and not [name for name, _ in response.headers if "Access-Control" in name]


def test_cors_for_one_origin_with_a_key(make: Make, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    client = make(keys_file=str(tmp_path / "keys"), cors_origin="https://example.org")
    preflight = client.options("/predict", headers={"Origin": "https://other.org"})
    assert preflight.status_code == 200 and preflight.data == b""
    for response in (preflight, client.post("/predict"), client.get("/healthz")):
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        assert "Origin" in response.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/metrics"])
def test_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_the_content_security_policy_of_the_page(client: FlaskClient) -> None:
    first, second = client.get("/"), client.get("/")
    html, policy = first.get_data(as_text=True), first.headers["Content-Security-Policy"]
    assert first.status_code == 200 and first.content_type == "text/html; charset=utf-8" and "fake" in html
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert f'nonce="{nonce}"' in html and policy != second.headers["Content-Security-Policy"]
    for rule in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "connect-src 'self'"):
        assert rule in policy
    assert "unsafe" not in policy and "*" not in policy


# Request ids


@pytest.mark.parametrize("own", ["a", "x" * 64, "2024-01-01_a.B"])
def test_a_valid_request_id_is_kept(client: FlaskClient, own: str) -> None:
    for response in (
        client.post("/predict", **as_form(picture()), headers={"X-Request-ID": own}),
        client.get("/nowhere", headers={"X-Request-ID": own}),
    ):
        assert response.headers["X-Request-ID"] == response.get_json()["request_id"] == own


@pytest.mark.parametrize("own", ["", "x" * 65, "a b", "a,b", "a/../b", "\xe9", "٣", '{"a": 1}', "a\tb"])
def test_an_invalid_request_id_is_replaced(client: FlaskClient, own: str) -> None:
    sent = {"HTTP_X_REQUEST_ID": own.encode().decode("latin-1")}
    made = {client.get("/nowhere", environ_overrides=sent).headers["X-Request-ID"] for _ in range(2)}
    assert len(made) == 2 and all(len(one) == 32 and one.isalnum() for one in made)


# Logs


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The fields of the one log line without the standard ones."""
    (record,) = (record for record in caplog.records if record.name.startswith("api"))
    usual = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    return {name: value for name, value in vars(record).items() if name not in usual}


@pytest.mark.parametrize("log_content", [False, True])
def test_a_request_is_one_log_line_with_content_only_if_enabled(
    make: Make, caplog: pytest.LogCaptureFixture, log_content: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    client = make(None, lambda data: "what it reads", log_content=log_content)
    client.post("/predict?token=secret", **as_form(picture(), text="sneer"), headers={"X-Request-ID": "mine"})
    line = logged(caplog)
    assert line.pop("ms") >= 0
    content = {"memes": [{"text": "sneer", "image_sha256": content_key(picture())}]}
    assert line == {
        "request_id": "mine", "method": "POST", "path": "/predict", "status": 200, "remote": "127.0.0.1",
        "label": "offensive", "probability": 0.5, "text_source": "request", **(content if log_content else {}),
    }  # fmt: skip


def test_the_log_line_of_a_batch_has_its_memes_if_enabled(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    memes = [meme(picture(), text="lone \ud83d"), {"image": "%"}, meme(b"hello")]
    make(log_content=True).post("/predict/batch", **body(json.dumps({"memes": memes})))
    assert logged(caplog)["memes"] == [
        {"text": "lone \ud83d", "image_sha256": content_key(picture())},
        {"text": None, "image_sha256": content_key(b"hello")},
    ]


@pytest.mark.parametrize(
    ("path", "call"),
    [("/predict", as_form(b"hello", text="sneer")), ("/predict", as_json(picture(), txet="sneer")),
     ("/predict/batch", {"json": {"memes": [meme(picture(), text="sneer")]}}), ("/sneer", {})],
)  # fmt: skip
def test_content_is_not_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str, call: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    client.post(path, **call)
    assert "sneer" not in str(logged(caplog))


# About the server


def test_health_and_readiness(client: FlaskClient, services: list[Service]) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json() == {"status": "ready", "model": {"name": "fake", "version": "0123"}}
    services[0].stopping = True
    response = client.get("/readyz")
    assert "stopping" in problem_of(response, 503)["detail"] and response.headers["Retry-After"] == "1"
    assert client.get("/healthz").status_code == 200


def test_the_model_card(client: FlaskClient) -> None:
    card = client.get("/model").get_json()
    assert card["model"] == {"name": "fake", "version": "0123"} and card["training_fingerprint"] == "abc"
    assert card.keys() == set(CARD.__struct_fields__) - {"finetuned", "notice"}


def counted(client: FlaskClient, start: str) -> dict[str, float]:
    """Lines of /metrics with this start: {rest of the name and labels: value}."""
    lines = client.get("/metrics").get_data(as_text=True).splitlines()
    named = (line.removeprefix(start).rpartition(" ") for line in lines if line.startswith(start))
    return {name: float(value) for name, _, value in named}


def test_requests_are_counted_by_path_method_and_status(client: FlaskClient) -> None:
    client.post("/predict", **as_form(picture(), text="sneer"))
    client.post("/predict", **as_form(b"hello"))
    client.get("/healthz")
    assert counted(client, "meme_requests_total") == {
        '{method="POST",path="/predict",status="200"}': 1,
        '{method="POST",path="/predict",status="415"}': 1,
        '{method="GET",path="/healthz",status="200"}': 1,
    }
    assert counted(client, "meme_request_seconds_count")['{path="/predict"}'] == 2


def test_unknown_paths_and_methods_share_one_label(client: FlaskClient) -> None:
    for number in range(5):
        client.get(f"/made-up/{number}")
        client.open(f"/made-up/{number}", method=f"BREW{number}")
        client.open("/predict", method=f"BREW{number}")
    assert counted(client, "meme_requests_total") == {
        '{method="GET",path="other",status="404"}': 5,
        '{method="other",path="other",status="404"}': 5,
        '{method="other",path="other",status="405"}': 5,
    }


def test_predictions_stages_batches_and_caches_are_counted(make: Make) -> None:
    client = make(None, lambda data: "read")
    for text in ("sneer", "sneer", ""):
        client.post("/predict", **as_form(picture(), text=text))
    assert counted(client, "meme_predictions_total") == {'{label="offensive"}': 3}
    assert counted(client, "meme_probability_bucket")['{le="0.4"}'] == 1
    assert counted(client, "meme_probability_bucket")['{le="0.5"}'] == 3
    lookups = counted(client, "meme_cache_lookups_total")
    assert lookups['{kind="image",result="hit"}'] == 2 and lookups['{kind="image",result="miss"}'] == 1
    assert lookups['{kind="text",result="hit"}'] == 1 and lookups['{kind="ocr",result="miss"}'] == 1
    stages = counted(client, "meme_stage_seconds_count")
    assert stages == {
        '{stage="decode"}': 1, '{stage="ocr"}': 1, '{stage="queue"}': 3, '{stage="model"}': 3, '{stage="explain"}': 0,
    }  # fmt: skip
    assert counted(client, "meme_batch_size_sum") == {"": 3}
    assert counted(client, "meme_model{") == {'name="fake",version="0123"}': 1}
    assert counted(client, "meme_queue_depth") == {"": 0}


def test_the_content_type_of_metrics(client: FlaskClient) -> None:
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=") and b"# HELP meme_requests_total" in response.data


def test_the_demos_encoder_is_named_by_the_page_the_card_and_each_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = FakeClassifier()
    classifier.config |= {"spec": {"weights_sha256": demo._WEIGHTS}, "data": {"source": "../my-memes"}}
    card = replace(CARD, model=served_model(classifier), notice=NOTICE)  # type: ignore[arg-type]
    monkeypatch.setattr(api_fakes, "CARD", card)
    client = make(classifier)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [NOTICE]
    assert client.post("/predict", **as_form(picture())).get_json()["model"]["notice"] == NOTICE
    assert client.get("/readyz").get_json()["model"]["notice"] == NOTICE
    told = client.get("/model").get_json()
    assert told["notice"] == told["model"]["notice"] == NOTICE
    assert re.search(rf'<p class="warning" id="notice" role="note">\s*{re.escape(NOTICE)}</p>', client.get("/").text)


def test_the_demo_itself_is_named_without_alarm(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_fakes, "CARD", replace(CARD, notice=NOTICE))
    client = make()
    assert client.post("/predict", **as_form(picture())).get_json()["model"] == {"name": "fake", "version": "0123"}
    assert re.search(rf'<p class="soft" id="notice" role="note">\s*{re.escape(NOTICE)}</p>', client.get("/").text)
    monkeypatch.undo()
    assert NOTICE not in make().get("/").text


def test_the_page_and_the_contract_have_relative_addresses_only(client: FlaskClient) -> None:
    """So that both work below any path of a proxy."""
    page = client.get("/").text
    assert re.findall(r'(?:href|src|action)="([^"]*)"', page) == ["data:,", "predict", "model", "openapi.json"]
    assert 'fetch("' not in page and "fetch('" not in page
    document = client.get("/openapi.json").get_json()
    assert document["servers"] == [{"url": "."}] and "/predict" in document["paths"]


def test_a_problem_has_a_code_that_stays(client: FlaskClient) -> None:
    codes = {
        "not_found": client.get("/nothing"),
        "method_not_allowed": client.get("/predict"),
        "unsupported_media_type": client.post("/predict", data="x"),
        "not_json": client.post("/predict", data="x", content_type="application/json"),
        "not_a_form": client.post("/predict", data="x", content_type="multipart/form-data; boundary=b"),
        "not_an_image": client.post("/predict", **as_form(b"x")),
        "unprocessable_fields": client.post("/predict", **as_form(picture(), who="x")),
        "unreadable_text": client.post(
            "/predict", **body(raw_form("text", b"\xff"), "multipart/form-data; boundary=b")
        ),
    }
    assert {problem_of(response, response.status_code)["code"]: response for response in codes.values()} == codes
