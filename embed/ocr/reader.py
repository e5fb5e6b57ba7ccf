"""Read the text on a picture with RapidOCR (PP-OCRv6 over onnxruntime), offline.

Used by the batch job (`python -m embed --ocr`) and the server. The models are in RapidOCR's wheel. RapidOCR takes about
a second to import, so only creating a `TextReader` imports it. The settings were measured with `python -m bench.ocr`,
with the wheel's model; they are the same for added ones (`embed.ocr.recognisers`).
"""

import importlib.metadata
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache import cores
from embed.base.errors import first_line
from embed.base.text import clean_text
from embed.ocr.recognisers import OcrUnavailable, Recogniser
from embed.pictures.appearance import RULE
from embed.pictures.decoding import decode_picture, in_rgb

# RapidOCR's third model, which turns upside-down lines, is not used: memes have none, and it turned more good lines
# than bad ones (error on MultiOFF 8.2 % with it, 6.9 % without).
_DETECTOR, _RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
# RapidOCR's name for models of a script that is written from right to left.
_RIGHT_TO_LEFT = "arabic"
# The longest side, in pixels, is scaled into this range. Letters of smaller pictures are smaller than in the models'
# training data; above the upper bound a photo of 24 megapixels took longer and was read no better.
_LEAST_SIDE, _MOST_SIDE = 320, 1600
# Longest side, in pixels, for line detection; lines are recognised at the size above. Stock RapidOCR enlarges every
# picture to a short side of 736, which takes 1.5 to 4 times as long and is no better.
_SEARCH_SIDE = 960
# With RapidOCR's 0.5, patterns are read as letters.
_LEAST_SCORE = 0.7
# The recogniser joins words in narrow capitals, where blank beats space in every frame. The space's probability is 0.02
# to 0.4 between words and below 0.001 inside them.
_LEAST_SPACE = 0.02
# Bound on the work per picture; a page of small print would take a minute. Lines are read from the top until their
# widths, in line heights, sum up to this: about 2,000 characters, more than the longest text of MultiOFF.
_MOST_WIDTH = 1000
# Shorter lines are padded to this width, in line heights.
_LEAST_WIDTH = 320 / 48


class OcrFailed(RuntimeError):
    """The OCR engine failed on a decodable picture."""


def engine_name(recogniser: Recogniser | None = None) -> str:
    """RapidOCR's version, an added recogniser and all settings that change results; imports nothing. Raises
    OcrUnavailable."""
    try:
        version = importlib.metadata.version("rapidocr")
    except importlib.metadata.PackageNotFoundError as error:
        raise _not_installed("rapidocr") from error
    sides = f"side {_LEAST_SIDE}-{_MOST_SIDE} search {_SEARCH_SIDE}"
    settings = f"picture {RULE['rule']} {sides} score {_LEAST_SCORE} space {_LEAST_SPACE} width {_MOST_WIDTH}"
    added = recogniser.name() if recogniser else ""
    return " ".join(part for part in (f"rapidocr {version} PP-OCRv6-small", added, settings) if part)


class TextReader:
    """RapidOCR with our settings; thread-safe. engine: see `engine_name`. Raises OcrUnavailable.

    threads: per picture; they do not spin while waiting. At most cores / threads pictures are read at a time, and
    further callers wait: each takes up to a few hundred MB.
    """

    def __init__(self, threads: int = 1, recogniser: Recogniser | None = None) -> None:
        self.engine = engine_name(recogniser)
        self._engine = _load(threads, recogniser or Recogniser())
        # RapidOCR keeps no state between calls, and onnxruntime's sessions are thread-safe.
        self._slots = threading.Semaphore(max(1, cores() // threads))

    def read(self, data: bytes) -> str:
        """The text on an encoded picture, lines from top to bottom joined by spaces; "" if there is none.

        Raises UnreadableImage for bytes that do not decode, OcrFailed if the engine fails.
        """
        with self._slots:
            picture = _scaled(in_rgb(decode_picture(data)))
            bgr = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])  # (H, W, 3) uint8, BGR as in OpenCV
            try:
                found = self._engine(bgr)
            # OpenCV, shapely and onnxruntime raise all kinds of exceptions on unusual pictures
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise OcrFailed(f"the words on the picture could not be read ({reason})") from error
        return clean_text(" ".join(" ".join(found.txts or ()).split()))


def _load(threads: int, recogniser: Recogniser) -> Any:
    """RapidOCR with our own onnxruntime sessions, so that it downloads no models."""
    if recogniser.language == _RIGHT_TO_LEFT and importlib.util.find_spec("bidi") is None:
        raise OcrUnavailable(f"OCR_LANG={_RIGHT_TO_LEFT} needs a further package: .venv/bin/pip install python-bidi")
    try:
        import onnxruntime  # noqa: F401 - `_session` needs it
        from omegaconf import flag_override
        from rapidocr import LangRec, RapidOCR
    except ImportError as error:
        raise _not_installed(error.name or "rapidocr") from error
    engine = RapidOCR(
        params={
            # it warns about pictures without text
            "Global.log_level": "error",
            "Global.use_cls": False,
            # `_scaled` does it
            "Global.use_preprocess_img": False,
            "Global.text_score": _LEAST_SCORE,
            "Det.limit_type": "max",
            "Det.limit_side_len": _SEARCH_SIDE,
            # A batch is padded to its longest line; padding takes time and joins words.
            "Rec.rec_batch_num": 1,
            # it then puts what was read from left to right into the order of the words
            **({"Rec.lang_type": LangRec.ARABIC} if recogniser.language == _RIGHT_TO_LEFT else {}),
        }
    )
    with flag_override(engine.cfg, "allow_objects", True):
        engine.cfg.Det.session = _session(_model(_DETECTOR), threads)
        engine.cfg.Rec.session = _recogniser_session(recogniser, threads)
    _reveal_spaces(engine.cfg.Rec.session)
    # the first call creates the detector
    engine(np.zeros((64, 64, 3), np.uint8))
    _bound_work(engine)
    return engine


def _session(path: str, threads: int) -> Any:
    from onnxruntime import InferenceSession

    return InferenceSession(path, _options(threads), ["CPUExecutionProvider"])


def _recogniser_session(recogniser: Recogniser, threads: int) -> Any:
    if recogniser.path is None:
        return _session(_model(_RECOGNISER), threads)
    wrong = f"{recogniser.path}: not a recognition model of RapidOCR in ONNX format"
    try:
        session = _session(str(recogniser.path), threads)
    except _unusable_model() as error:
        raise OcrUnavailable(f"{wrong} ({first_line(error)}); get it again") from error
    characters = session.get_modelmeta().custom_metadata_map.get("character", "").splitlines()
    classes = session.get_outputs()[0].shape[-1]
    # blank and space are in no list; some models have a number of classes that is known when they run
    if not characters or (isinstance(classes, int) and classes != len(characters) + 2):
        # RapidOCR would look for a list of characters on the network
        raise OcrUnavailable(f"{wrong}: it names {len(characters)} characters for {classes} classes, expected 2 fewer")
    return session


def _unusable_model() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file that is no model, or a model that it cannot run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return tuple(getattr(state, name) for name in names)


def _options(threads: int) -> Any:
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads would take CPU time from the server's model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena would keep the memory of the largest picture.
    options.enable_cpu_mem_arena = False
    # log fatal errors only; others are raised
    options.log_severity_level = 4
    return options


def _model(name: str) -> str:
    package = importlib.util.find_spec("rapidocr")
    path = Path(package.origin).parent / "models" / name if package and package.origin else Path(name)
    if not path.is_file():
        raise OcrUnavailable(
            f"{path}: no such model; install the rapidocr of requirements.txt again, or do without --ocr"
        )
    return str(path)


def _bound_work(engine: Any) -> None:
    """Limit the detector's lines to those within `_MOST_WIDTH`."""
    detect = engine.text_det

    def detect_some(pixels: np.ndarray) -> Any:
        found = detect(pixels)
        if found.boxes is not None:
            found.boxes = found.boxes[: _affordable(found.boxes)]
            found.scores = found.scores[: len(found.boxes)]
        return found

    engine.text_det = detect_some


def _affordable(boxes: np.ndarray) -> int:
    """How many of the (N, 4, 2) boxes, corners clockwise from the upper left, are within `_MOST_WIDTH`; at least 1."""
    across, down = (np.linalg.norm(boxes[:, 0] - boxes[:, corner], axis=1) for corner in (1, 3))
    # vertical lines are rotated before recognition
    widths = np.maximum(across, down) / np.minimum(across, down)
    return max(1, int((np.maximum(widths, _LEAST_WIDTH).cumsum() <= _MOST_WIDTH).sum()))


def _reveal_spaces(session: Any) -> None:
    """Wrap the recogniser's session so that its output goes through `_with_spaces`."""
    run = session.run

    def run_with_spaces(*arguments: Any) -> list[np.ndarray]:
        scores, *others = run(*arguments)
        return [_with_spaces(scores), *others]

    session.run = run_with_spaces


def _with_spaces(scores: np.ndarray) -> np.ndarray:
    """Turn blank frames with a probable space into spaces, in place.

    scores: (N, T, C) float32 probabilities of a CTC decoder (Graves et al., 2006), blank first and space last.
    """
    line, frame = np.nonzero(scores[:, :, -1] > _LEAST_SPACE)
    blank = scores[line, frame].argmax(axis=1) == 0
    scores[line[blank], frame[blank], -1] = 1.0
    return scores


def _scaled(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    factor = min(max(longest, _LEAST_SIDE), _MOST_SIDE) / longest
    if factor == 1:
        return picture
    width, height = (max(1, round(side * factor)) for side in picture.size)
    # reducing_gap: fast box reduction first, without visible loss on a photo of 24 megapixels
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _not_installed(package: str) -> OcrUnavailable:
    return OcrUnavailable(
        f"the package {package}, which reads the words on pictures, is not installed: pip install rapidocr "
        "onnxruntime (versions in requirements.txt), or do without --ocr (of a server: --ocr off)"
    )
