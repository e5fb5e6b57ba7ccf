"""The words on a picture, read by RapidOCR (PP-OCRv6 over onnxruntime): offline, its models are inside its wheel.

The one way for the batch job (`python -m embed --ocr`) and for the server. It knows nothing of memes, HTTP or where
readings are kept. RapidOCR takes about a second to import, so only making a `TextReader` imports it. `python -m
bench.ocr` measured the settings.
"""

import importlib.metadata
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache import cores
from embed.base.text import clean_text
from embed.pictures.decoding import decode_picture, on_white

# Both in RapidOCR's wheel. The third model there turns lines that stand on their heads; memes have none, and it turned
# more good lines than bad ones (error on MultiOFF 8.2 % with it, 6.9 % without).
_MODELS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}
# The longest side is brought between these. Letters of smaller pictures are smaller than the models were trained on;
# beyond the upper bound a photo of 24 megapixels gained nothing but time.
_LEAST_SIDE, _MOST_SIDE = 320, 1600
# Where lines are looked for, the longest side is at most this; they are read at the size above. Stock RapidOCR
# enlarges every picture to a short side of 736, which takes 1.5 to 4 times as long and is no better.
_SEARCH_SIDE = 960
# RapidOCR's 0.5 lets patterns through that it takes for letters.
_LEAST_SCORE = 0.7
# The recogniser joins the words of narrow capitals: between them a blank beats the space in every frame. Yet the space's
# probability is 0.02 to 0.4 there, and below 0.001 inside words.
_LEAST_SPACE = 0.02
# A page full of small print would take a minute. Lines are read from the top until their widths, each in heights of its
# line, come to this: some 2,000 characters, more than the longest text of MultiOFF.
_MOST_WIDTH = 1000
# A shorter line takes the recogniser as long as one of this width.
_LEAST_WIDTH = 320 / 48


class OcrUnavailable(ValueError):
    """The packages that read pictures are not installed, or not whole."""


class OcrFailed(RuntimeError):
    """The engine failed on a picture that decodes; the words on it are not known."""


def engine_name() -> str:
    """RapidOCR's version and every setting of ours that changes what is read; imports nothing. Raises OcrUnavailable."""
    try:
        version = importlib.metadata.version("rapidocr")
    except importlib.metadata.PackageNotFoundError as error:
        raise _not_installed("rapidocr") from error
    sides = f"side {_LEAST_SIDE}-{_MOST_SIDE} search {_SEARCH_SIDE}"
    return f"rapidocr {version} PP-OCRv6-small {sides} score {_LEAST_SCORE} space {_LEAST_SPACE} width {_MOST_WIDTH}"


class TextReader:
    """RapidOCR with our settings; any number of threads may use one.

    threads: that work on one picture; they sleep rather than spin while they wait. As many pictures are read at a time
    as there are cores for, and further callers wait: each takes up to some hundred MB. engine: what `engine_name` says.
    Raises OcrUnavailable.
    """

    def __init__(self, threads: int = 1) -> None:
        self.engine = engine_name()
        self._engine = _load(threads)
        # RapidOCR changes nothing of itself while it reads, and onnxruntime's sessions may be shared.
        self._seats = threading.Semaphore(max(1, cores() // threads))

    def read(self, data: bytes) -> str:
        """The words on a picture, lines from top to bottom, in one line of text; "" where there are none.

        Raises UnreadableImage for bytes that are no picture, OcrFailed where the engine fails.
        """
        with self._seats:
            picture = _scaled(on_white(decode_picture(data)))
            bgr = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])  # (H, W, 3), OpenCV's order of colours
            try:
                found = self._engine(bgr)
            # OpenCV, shapely and onnxruntime raise whatever an odd picture leads them into
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise OcrFailed(f"the words on the picture could not be read ({reason})") from error
        return clean_text(" ".join(" ".join(found.txts or ()).split()))


def _load(threads: int) -> Any:
    """RapidOCR over sessions of our making, so that it looks for no model anywhere else."""
    try:
        from omegaconf import flag_override
        from onnxruntime import InferenceSession
        from rapidocr import RapidOCR
    except ImportError as error:
        raise _not_installed(error.name or "rapidocr") from error
    engine = RapidOCR(
        params={
            # "nothing was found" is a warning of its
            "Global.log_level": "error",
            "Global.use_cls": False,
            # by `_scaled`
            "Global.use_preprocess_img": False,
            "Global.text_score": _LEAST_SCORE,
            "Det.limit_type": "max",
            "Det.limit_side_len": _SEARCH_SIDE,
            # A batch is padded to its longest line; padding costs time, and joined words.
            "Rec.rec_batch_num": 1,
        }
    )
    with flag_override(engine.cfg, "allow_objects", True):
        for part, name in _MODELS.items():
            engine.cfg[part].session = InferenceSession(_model(name), _options(threads), ["CPUExecutionProvider"])
    _reveal_spaces(engine.cfg.Rec.session)
    # makes the detector
    engine(np.zeros((64, 64, 3), np.uint8))
    _bound_work(engine)
    return engine


def _options(threads: int) -> Any:
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait would take the cores from the server's model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena keeps what the largest picture took.
    options.enable_cpu_mem_arena = False
    # onnxruntime's fatal errors only; the others are raised
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
    """Have the detector hand on no more lines than the recogniser has time for."""
    detect = engine.text_det

    def detect_some(pixels: np.ndarray) -> Any:
        found = detect(pixels)
        if found.boxes is not None:
            found.boxes = found.boxes[: _affordable(found.boxes)]
            found.scores = found.scores[: len(found.boxes)]
        return found

    engine.text_det = detect_some


def _affordable(boxes: np.ndarray) -> int:
    """How many of the (N, 4, 2) boxes, corners clockwise from the upper left, are within `_MOST_WIDTH`; 1 or more."""
    across, down = (np.linalg.norm(boxes[:, 0] - boxes[:, corner], axis=1) for corner in (1, 3))
    # those that stand upright are turned before they are read
    widths = np.maximum(across, down) / np.minimum(across, down)
    return max(1, int((np.maximum(widths, _LEAST_WIDTH).cumsum() <= _MOST_WIDTH).sum()))


def _reveal_spaces(session: Any) -> None:
    """Have the recogniser's session see to spaces in what it returns."""
    run = session.run

    def run_with_spaces(*arguments: Any) -> list[np.ndarray]:
        scores, *others = run(*arguments)
        return [_with_spaces(scores), *others]

    session.run = run_with_spaces


def _with_spaces(scores: np.ndarray) -> np.ndarray:
    """(N, T, C) probabilities of a connectionist temporal classification (Graves et al., 2006), blank first and space
    last: a frame that would be blank becomes a space where that is likely enough. Changed in place."""
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
    # reducing_gap: whole pixels are averaged first, which a photo of 24 megapixels does not show
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _not_installed(package: str) -> OcrUnavailable:
    return OcrUnavailable(
        f"the package {package}, which reads the words on pictures, is not installed: pip install rapidocr "
        "onnxruntime (versions in requirements.txt), or do without --ocr (of a server: --ocr off)"
    )
