"""`python -m api predict IMAGE`: the JSON response to one meme."""

import sys
import uuid
from pathlib import Path

import msgspec

from api.metrics import Metrics
from api.model.loading import load_model, make_reader
from api.model.prediction import Meme
from api.schema import MAX_TEXT_CHARS
from api.settings import ServeSettings
from cache import path_notice
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture


def predict(image: Path, text: str | None, explain: bool, settings: ServeSettings) -> str:
    """The response of `POST /predict` as indented JSON.

    text: None: read off the picture by OCR. Raises what `load_model` raises, and ValueError for a picture that cannot
    be read or a text of more than MAX_TEXT_CHARS characters.
    """
    if text is not None and len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"--text has {len(text):,} characters, the limit is {MAX_TEXT_CHARS:,}")
    try:
        meme = Meme(read_picture(image), text, explain=explain)
        predictor = load_model(settings, Metrics(), make_reader(settings)).predictor
        answer = predictor.predict(meme, uuid.uuid4().hex)
    except (UnusableFile, UnreadableImage) as error:
        raise ValueError(f"{image}: {error}") from error
    if notice := path_notice(predictor.classifier.config["spec"], image):
        print(notice, file=sys.stderr)
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
