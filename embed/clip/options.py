"""How a model is to be run: which features, in what precision, and what becomes of long texts.

It imports no torch, so that command lines and the job's plan can know it at once.
"""

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache import FEATURES, LONG_TEXTS, absolute_if_file

DEVICES = ("auto", "cpu", "cuda")
# open_clip's word for a model in a folder; `open_clip.factory` has it as LOCAL_DIR_PREFIX, and takes seconds to import
LOCAL_DIR = "local-dir:"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

_PRECISION_OF = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class EncoderOptions:
    """features: "projected" (the joint space), "pooled" (before the projection, what the best published heads use), or
    "both", pooled and then projected columns in one vector; precision: "auto", "fp32", "bf16" or "fp16", what weights are
    rounded to, and products too where the hardware has instructions for it; long_text: "truncate", or "chunk" for the mean
    of pieces that fit.
    """

    features: str = FEATURES[0]
    precision: str = PRECISIONS[0]
    long_text: str = LONG_TEXTS[0]

    @classmethod
    def of_spec(cls, spec: dict[str, Any]) -> "EncoderOptions":
        """The options that made vectors of this spec, so that a server makes them alike."""
        cut = spec["tokenizer"]["truncation"] != "mean of pieces"
        return cls(spec["feature"], _PRECISION_OF[spec["dtype"]], "truncate" if cut else "chunk")


@dataclass(frozen=True)
class EncoderRequest:
    """Which encoder is wanted. model, pretrained: open_clip's names; delta: what fine-tuning changed of it, as a file."""

    model: str
    pretrained: str
    options: EncoderOptions
    delta: Path | None = None

    def absolute(self) -> "EncoderRequest":
        """The same with whole paths, which mean the same from every folder."""
        model = self.model
        if model.startswith(LOCAL_DIR):
            model = LOCAL_DIR + str(Path(model.removeprefix(LOCAL_DIR)).resolve())
        return replace(
            self, model=model, pretrained=absolute_if_file(self.pretrained), delta=self.delta and self.delta.resolve()
        )

    def __str__(self) -> str:
        return f"{self.model} {self.pretrained}".rstrip() + (f" with {self.delta}" if self.delta else "")


def library_versions() -> dict[str, str]:
    """Versions that are part of a spec, read without importing the packages."""
    return {name: importlib.metadata.version(name) for name in ("open_clip_torch", "pillow", "ftfy")}
