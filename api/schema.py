"""What goes over the wire, as types: every request is checked against these, every answer is one of them, and
`/openapi.json` is made from them. Knows nothing of Flask or of models.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

# CLIP reads 77 tokens, some 60 words. A longer text is cut there; one far longer is a mistake or an attack,
# and one word of 5,000 letters keeps the tokenizer busy for most of a second.
MAX_TEXT_CHARS = 5_000
# Phone photos reach 12 MB, and base64 adds a third.
MAX_BODY_BYTES = 20_000_000
# Half of the memes that a server has under way, so that one caller cannot fill it.
MAX_BATCH = 16

# On every answer, also on those to requests that the application never sees.
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
# Where the document keeps its types.
REFS = "#/components/schemas/{name}"

Probability = Annotated[float, Meta(ge=0, le=1)]
Label = Literal["offensive", "non-offensive", "review"]
Text = Annotated[
    str, Meta(max_length=MAX_TEXT_CHARS, description="the words on the meme; blank: read them, if the server can")
]
Ocr = Annotated[Literal["auto", "off"], Meta(description="off: do not read the picture where there is no text")]
Explain = Annotated[bool, Meta(description="also say what each side tells, and which labelled memes are most alike")]


class MemeRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """A meme in JSON."""

    image: Annotated[
        str, Meta(description="the picture, in standard base64", extra_json_schema={"contentEncoding": "base64"})
    ]
    text: Text | None = None
    ocr: Ocr = "auto"
    explain: Explain = False


class MemeForm(Struct, forbid_unknown_fields=True, frozen=True):
    """A meme as a form, multipart/form-data."""

    image: Annotated[bytes, Meta(description="the picture", extra_json_schema={"type": "string", "format": "binary"})]
    text: Text = ""
    ocr: Ocr = "auto"
    explain: Explain = False


class BatchRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Several memes; each is answered or refused by itself."""

    memes: Annotated[list[MemeRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class Probabilities(Struct, frozen=True):
    offensive: Probability
    non_offensive: Probability = field(name="non-offensive")


class Review(Struct, frozen=True):
    """From low to below high a person decides."""

    low: Probability
    high: Probability


class ReadText(Struct, frozen=True):
    """The text that was judged, and where it is from."""

    value: str
    source: Literal["request", "ocr", "none"]


class Model(Struct, frozen=True):
    name: str
    version: str


class Neighbour(Struct, frozen=True):
    """A labelled meme of the training index; similarities are centred cosines, `similarity` the mean of both sides."""

    id: str
    label: Literal["offensive", "non-offensive"]
    similarity: float
    image_similarity: float
    text_similarity: float


class Explanation(Struct, frozen=True, omit_defaults=True):
    """image_alone: the mean probability of this picture over the texts of training memes; text_alone likewise; both:
    the probability of the answer. null, and a note, where the training index is not at hand."""

    image_alone: Probability | None
    text_alone: Probability | None
    both: Probability
    neighbours: list[Neighbour]
    note: str | UnsetType = UNSET


class Prediction(Struct, frozen=True, omit_defaults=True):
    """probability is that of `offensive`, calibrated."""

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
    """RFC 9457, with a sentence in `detail` that says what to change."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class Refused(Struct, frozen=True):
    """A meme of a batch that could not be answered."""

    error: Problem


# msgspec has no unions of structs without a tag, so the document is told what stands here.
Entry = Annotated[
    Any, Meta(extra_json_schema={"anyOf": [{"$ref": REFS.format(name=one.__name__)} for one in (Prediction, Refused)]})
]


class BatchAnswer(Struct, frozen=True):
    """One entry for each meme, in their order: a Prediction, or why there is none."""

    predictions: list[Entry]


class Health(Struct, frozen=True):
    status: Literal["ok"]


class Ready(Struct, frozen=True):
    status: Literal["ready"]
    model: Model


class Figure(Struct, frozen=True):
    """A figure, and the 95 % interval around it."""

    point: float | None
    interval: Annotated[list[float], Meta(min_length=2, max_length=2)] | None


class FineTuning(Struct, frozen=True):
    """What of the encoder was trained further, together with the head, and from which model.

    towers: image, text or both; blocks: how many of a tower's last ones; lora: the rank of the changes, 0 where whole
    weights were trained; trained: how many numbers were; best_epoch: the one that answers, by its validation loss.
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
    """What answers, how good it is, and what it is not for.

    metrics: {method: {metric: figure}} of what answers and of the best simple method, which gets the vectors of the
    encoder as it was before any fine-tuning; judged_on says on which memes, `definition` what each metric is. encoder:
    what made the vectors. finetuned: only where the encoder was.
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
