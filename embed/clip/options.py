"""Options of an encoder: features, precision, treatment of long texts. Imports no torch, to start fast."""

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache import FEATURES, LONG_TEXTS, absolute_if_file

DEVICES = ("auto", "cpu", "cuda")
# open_clip's prefix of a model in a folder: its LOCAL_DIR_PREFIX, without the seconds of importing open_clip
LOCAL_DIR = "local-dir:"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# "stored" is of specs without the field `picture`: bundles and vectors of earlier versions.
PICTURES = ("seen", "stored")

_PRECISION_OF = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is run.

    features: "projected" (joint space), "pooled" (before the projection, as the best published heads use) or "both"
    (pooled columns, then projected ones); precision: "auto", "fp32", "bf16" or "fp16", of the weights, and of matrix
    products if the hardware has instructions for it; long_text: "truncate", or "chunk" for the mean of pieces that fit;
    picture: "seen", as a person sees it (`embed.pictures.appearance`), or "stored", as the file's pixels are; prefer: the
    precision to be used for "auto" if the model runs in it, "" for the hardware's fastest.
    """

    features: str = FEATURES[0]
    precision: str = PRECISIONS[0]
    long_text: str = LONG_TEXTS[0]
    picture: str = PICTURES[0]
    prefer: str = ""

    @classmethod
    def of_spec(cls, spec: dict[str, Any]) -> "EncoderOptions":
        """The options recorded in a feature spec, for a server to compute the same vectors."""
        cut = spec["tokenizer"]["truncation"] != "mean of pieces"
        return cls(spec["feature"], precision_of(spec), "truncate" if cut else "chunk", _picture(spec))


@dataclass(frozen=True)
class EncoderRequest:
    """The encoder to load. model, pretrained: open_clip's names; delta: a fine-tuning delta's file, if any."""

    model: str
    pretrained: str
    options: EncoderOptions
    delta: Path | None = None

    def absolute(self) -> "EncoderRequest":
        """The same request with absolute paths, valid from every working directory."""
        model = self.model
        if model.startswith(LOCAL_DIR):
            model = LOCAL_DIR + str(Path(model.removeprefix(LOCAL_DIR)).resolve())
        return replace(
            self, model=model, pretrained=absolute_if_file(self.pretrained), delta=self.delta and self.delta.resolve()
        )

    def __str__(self) -> str:
        return f"{self.model} {self.pretrained}".rstrip() + (f" with {self.delta}" if self.delta else "")


def precision_of(spec: dict[str, Any]) -> str:
    """The precision of a spec, one of PRECISIONS; "" for that of imported vectors."""
    return _PRECISION_OF.get(spec.get("dtype", ""), "")


def _picture(spec: dict[str, Any]) -> str:
    return "seen" if "picture" in spec else "stored"


def older_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of the same encoder with `picture="stored"`."""
    if "picture" not in spec:
        return spec
    stored = {name: value for name, value in spec.items() if name != "picture"}
    return stored | {"decoder": {**spec["decoder"], "exif_rotation": False}}


def library_versions() -> dict[str, str]:
    """The package versions that are part of a spec, read without importing the packages."""
    return {name: importlib.metadata.version(name) for name in ("open_clip_torch", "pillow", "ftfy")}
