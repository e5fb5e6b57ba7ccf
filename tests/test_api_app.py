"""The HTTP contract, with a stand-in for the model: answers, refusals, never a 500 for what a caller sent."""

import base64
import io
import json
from typing import Any

import pytest
import torch
from fakes import picture
from flask.testing import FlaskClient

from api.app import MAX_BODY_BYTES, create_app
from api.prediction import MAX_TEXT_CHARS, Predictor
from embed.pictures import decode_picture


class FakeClassifier:
    """Finds a meme as offensive as its text is long: 10 letters are certain."""

    name, version, threshold = "fake", "0123", 0.4
    review: dict[str, float] | None = None
    broken = False

    def prepare(self, data: bytes, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        decode_picture(data)
        return torch.zeros(1), torch.tensor([len(text)])

    def __call__(self, pixels: list[torch.Tensor], tokens: list[torch.Tensor]) -> torch.Tensor:
        if self.broken:
            raise RuntimeError("a secret from inside")
        return torch.cat(tokens).double() / 10

    def warm_up(self) -> None: ...


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def client(classifier: FakeClassifier) -> FlaskClient:
    return create_app(Predictor(classifier)).test_client()


def as_form(data: bytes, **fields: str) -> dict[str, Any]:
    return {"data": {"image": (io.BytesIO(data), "x.png"), **fields}}


def as_json(data: bytes, **fields: str) -> dict[str, Any]:
    return {"json": {"image": base64.b64encode(data).decode(), **fields}}


@pytest.mark.parametrize("shape", [as_form, as_json])
def test_predict_answers_as_the_contract_says(client: FlaskClient, shape: Any) -> None:
    response = client.post("/predict", **shape(picture(), text="sneer"))
    answer = response.get_json()
    assert response.status_code == 200
    assert len(answer.pop("request_id")) == 32
    assert answer == {
        "label": "offensive",
        "probability": 0.5,
        "probabilities": {"offensive": 0.5, "non-offensive": 0.5},
        "threshold": 0.4,
        "text": {"value": "sneer", "source": "request"},
        "model": {"name": "fake", "version": "0123"},
    }


@pytest.mark.parametrize("shape", [as_form, as_json])
@pytest.mark.parametrize("fields", [{}, {"text": ""}, {"text": "  "}])
def test_no_text_is_no_error(client: FlaskClient, shape: Any, fields: dict[str, str]) -> None:
    answer = client.post("/predict", **shape(picture(), **fields)).get_json()
    assert answer["text"] == {"value": fields.get("text", ""), "source": "none"} and answer["label"] == "non-offensive"


def test_the_threshold_itself_is_offensive(client: FlaskClient) -> None:
    assert client.post("/predict", **as_form(picture(), text="four")).get_json()["label"] == "offensive"


@pytest.mark.parametrize(
    ("text", "label"),
    [("ab", "non-offensive"), ("abc", "review"), ("four", "review"), ("sneer", "review"),
     ("sneers", "offensive")],
)  # fmt: skip
def test_from_low_to_below_high_the_answer_is_left_to_a_person(
    client: FlaskClient, classifier: FakeClassifier, text: str, label: str
) -> None:
    classifier.review = {"low": 0.3, "high": 0.6}
    answer = client.post("/predict", **as_form(picture(), text=text)).get_json()
    assert answer["label"] == label and answer["probability"] == len(text) / 10
    assert answer["threshold"] == 0.4 and answer["review"] == {"low": 0.3, "high": 0.6}


@pytest.mark.parametrize(("text", "label"), [("abc", "non-offensive"), ("four", "offensive")])
def test_an_empty_band_leaves_nothing_to_a_person(
    client: FlaskClient, classifier: FakeClassifier, text: str, label: str
) -> None:
    classifier.review = {"low": 0.4, "high": 0.4}
    assert client.post("/predict", **as_form(picture(), text=text)).get_json()["label"] == label


def raw_form(name: str, value: bytes) -> bytes:
    """A form of one text field, by hand: the test client leaves a temporary file open for a large one."""
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n' % (name.encode(), value)


def test_base64_may_have_line_breaks(client: FlaskClient) -> None:
    image = base64.encodebytes(picture()).decode()
    assert "\n" in image
    assert client.post("/predict", json={"image": image}).status_code == 200


def body(text: str | bytes, kind: str = "application/json") -> dict[str, Any]:
    return {"data": text, "content_type": kind}


@pytest.mark.parametrize(
    ("call", "status", "sentence"),
    [
        ({}, 415, "multipart/form-data"),
        (body(picture(), "image/png"), 415, "multipart/form-data"),
        (body("image=abc", "application/x-www-form-urlencoded"), 415, "multipart/form-data"),
        ({"data": {"text": "x"}, "content_type": "multipart/form-data"}, 422, "`image` is missing"),
        (body("not a form", "multipart/form-data"), 422, "`image` is missing"),
        ({"data": {"image": "x"}, "content_type": "multipart/form-data"}, 422, "send it as a file"),
        (as_form(b"hello"), 415, "not an image"),
        (as_form(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "not an image"),
        (as_form(b""), 400, "empty"),
        (as_form(picture(size=(64, 64))[:-2000]), 400, "cut off"),
        (as_form(picture(size=(1, 400))), 413, "one side"),
        (as_form(picture(), txet="typo"), 422, "unknown field 'txet'"),
        (as_form(picture(), text="x" * (MAX_TEXT_CHARS + 1)), 422, "the limit is"),
        (body(raw_form("text", b"x" * 1_000_000), "multipart/form-data; boundary=b"), 422, "`image` is missing"),
        (as_form(picture(), **{f"f{i}": "x" for i in range(50)}), 413, "parts"),
        (body("{"), 400, "not JSON"),
        (body(b"\xff\xfe{}"), 400, "not JSON"),
        (body("[" * 100_000), 400, "not JSON"),
        (body(""), 400, "not JSON"),
        (body("[1]"), 422, "JSON object"),
        (body('"text"'), 422, "JSON object"),
        (body('{"text": "x"}'), 422, "`image` is missing"),
        (body('{"image": NaN}'), 422, "string of base64"),
        (body('{"image": ["a"]}'), 422, "string of base64"),
        (body('{"image": "%%%"}'), 422, "not base64"),
        (body('{"image": "é"}'), 422, "not base64"),
        (body('{"image": "data:image/png;base64,AAAA"}'), 422, "not base64"),
        (body('{"image": "aGVsbG8="}'), 415, "not an image"),
        (body('{"image": "", "text": 7}'), 422, "`text` must be a string"),
    ],
)
def test_refusals_are_problem_json_with_a_sentence(
    client: FlaskClient, call: dict[str, Any], status: int, sentence: str
) -> None:
    response = client.post("/predict", **call)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert problem["status"] == status and problem["title"] and sentence in problem["detail"]


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    response = client.post("/predict", **body(b"x" * (MAX_BODY_BYTES + 1)))
    assert response.status_code == 413 and "the body has more" in response.get_data(as_text=True)


@pytest.mark.parametrize("text", ["nul\0", "lone \ud83d", "🤷 مرحبا", "a" * MAX_TEXT_CHARS])
def test_texts_of_every_kind_are_answered(client: FlaskClient, text: str) -> None:
    image = base64.b64encode(picture()).decode()
    response = client.post("/predict", **body(json.dumps({"image": image, "text": text})))
    assert response.status_code == 200 and response.get_json()["text"]["value"] == text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nowhere", 404)])
def test_wrong_addresses_and_methods(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status and response.content_type == "application/problem+json"
    assert (response.headers.get("Allow") == "OPTIONS, POST") == (status == 405)


def test_a_bug_of_ours_is_500_without_its_secrets_and_the_server_lives_on(
    client: FlaskClient, classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    classifier.broken = True
    response = client.post("/predict", **as_form(picture()))
    assert response.status_code == 500 and b"secret" not in response.data
    assert "a secret from inside" in caplog.text
    classifier.broken = False
    assert client.post("/predict", **as_form(picture())).status_code == 200


def test_health_and_readiness(client: FlaskClient) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json() == {"status": "ready", "model": {"name": "fake", "version": "0123"}}


def test_the_page_uses_nothing_from_outside(client: FlaskClient) -> None:
    response = client.get("/")
    html = response.get_data(as_text=True)
    assert response.status_code == 200 and "<form" in html and "fake" in html
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "http://" not in html and "https://" not in html
