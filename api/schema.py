"""Request and response types: requests are validated against them, and `/openapi.json` is generated from them."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

# CLIP truncates at 77 tokens, about 60 words. An encoder that embeds long texts in pieces makes up to 256 of these.
MAX_TEXT_CHARS = 5_000
# Phone photos have up to 12 MB, and base64 adds a third.
MAX_BODY_BYTES = 20_000_000
# Half of the default queue, so that one client cannot fill it.
MAX_BATCH = 16

# On every response, also on those that the application does not make.
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
# JSON pointer to a type in the OpenAPI document.
REFS = "#/components/schemas/{name}"

Probability = Annotated[float, Meta(ge=0, le=1)]
Label = Literal["offensive", "non-offensive", "review"]
Text = Annotated[
    str, Meta(max_length=MAX_TEXT_CHARS, description="the text on the meme; blank: read by OCR, if the server has it")
]
Ocr = Annotated[Literal["auto", "off"], Meta(description="off: no OCR where there is no text")]
Explain = Annotated[
    bool, Meta(description="add the probability by each side alone, and the most similar labelled memes")
]


class MemeRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """A meme in JSON."""

    image: Annotated[
        str, Meta(description="the picture, in standard base64", extra_json_schema={"contentEncoding": "base64"})
    ]
    text: Text | None = None
    ocr: Ocr = "auto"
    explain: Explain = False


class MemeForm(Struct, forbid_unknown_fields=True, frozen=True):
    """A meme as multipart/form-data."""

    image: Annotated[bytes, Meta(description="the picture", extra_json_schema={"type": "string", "format": "binary"})]
    text: Text = ""
    ocr: Ocr = "auto"
    explain: Explain = False


class BatchRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Several memes; each has a prediction or an error of its own."""

    memes: Annotated[list[MemeRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class Probabilities(Struct, frozen=True):
    offensive: Probability
    non_offensive: Probability = field(name="non-offensive")


class Review(Struct, frozen=True):
    """Probabilities in [low, high) are left to a person."""

    low: Probability
    high: Probability


class ReadText(Struct, frozen=True):
    """The text that was classified, and its source."""

    value: str
    source: Literal["request", "ocr", "none"]


class Model(Struct, frozen=True, omit_defaults=True):
    """notice: only where the demo's encoder was tuned on other memes than the demo's."""

    name: str
    version: str
    notice: str | UnsetType = UNSET


class Neighbour(Struct, frozen=True):
    """A labelled training meme. Similarities are centred cosines; `similarity` is the mean of both sides."""

    id: str
    label: Literal["offensive", "non-offensive"]
    similarity: float
    image_similarity: float
    text_similarity: float


class Explanation(Struct, frozen=True, omit_defaults=True):
    """image_alone: the mean probability of this picture over texts of training memes; text_alone likewise; both: the
    probability of the response. Without the training index they are null, with a note."""

    image_alone: Probability | None
    text_alone: Probability | None
    both: Probability
    neighbours: list[Neighbour]
    note: str | UnsetType = UNSET


class Prediction(Struct, frozen=True, omit_defaults=True):
    """probability: of `offensive`, calibrated."""

    label: Label
    probability: Probability
    probabilities: Probabilities
    threshold: Probability
    text: ReadText
    model: Model
    request_id: str
    review: Review | UnsetType = UNSET
    explanation: Explanation | UnsetType = UNSET


class Problem(Struct, frozen=True):
    """An error as of RFC 9457. code: its kind, which stays the same between versions; detail: what to change."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    request_id: str


def problem(title: str, status: int, detail: str, request_id: str) -> Problem:
    """An error; its code is the title in lower case, with underscores."""
    return Problem("about:blank", "_".join(title.lower().split()), title, status, detail, request_id)


class Refused(Struct, frozen=True):
    """The error of one meme of a batch."""

    error: Problem


# msgspec has no untagged unions of structs, so the schema is given here.
Entry = Annotated[
    Any, Meta(extra_json_schema={"anyOf": [{"$ref": REFS.format(name=one.__name__)} for one in (Prediction, Refused)]})
]


class BatchAnswer(Struct, frozen=True):
    """One entry per meme, in order: a Prediction or an error."""

    predictions: list[Entry]


class Health(Struct, frozen=True):
    status: Literal["ok"]


class Ready(Struct, frozen=True):
    status: Literal["ready"]
    model: Model


class Figure(Struct, frozen=True):
    """A metric and its 95 % interval."""

    point: float | None
    interval: Annotated[list[float], Meta(min_length=2, max_length=2)] | None


class FineTuning(Struct, frozen=True):
    """How the encoder was fine-tuned.

    from: the model that it started from; towers: image, text or both; blocks: how many of a tower's last blocks; lora:
    the rank, 0 for full weights; trained: number of trained weights; best_epoch: the one kept, by its validation loss.
    """

    source: Model = field(name="from")
    towers: Literal["both", "image", "text"]
    blocks: int
    lora: int
    trained: int
    learning_rate: float
    epochs: int
    best_epoch: int


class ModelCard(Struct, frozen=True):
    """The model card.

    metrics: {method: {metric: figure}} of the shipped method and of the best simple method, which uses the embeddings of
    the encoder before any fine-tuning; judged_on: the memes of the metrics; definition: of each metric; encoder: the
    feature spec; finetuned: only of a fine-tuned encoder; notice: only of the demo's encoder.
    """

    model: Model
    shipped: str
    created: str
    labels: list[str]
    threshold: Probability
    threshold_aim: str
    review: Review | None
    calibration: str
    judged_on: str
    definition: str
    metrics: dict[str, dict[str, Figure]]
    verdict: str
    training_memes: dict[str, dict[str, int]]
    training_fingerprint: str
    encoder: dict[str, Any]
    text_reading: str
    intended_use: list[str]
    limits: list[str]
    finetuned: FineTuning | UnsetType = UNSET
    notice: str | UnsetType = UNSET
