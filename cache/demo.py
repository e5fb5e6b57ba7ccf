"""The demo's data and encoder: the model that a command takes, and the notice where the encoder meets other data.

The encoder is recognised by its weights, the data set by its pictures, so that both are known under any path.
"""

import hashlib
import shlex
from collections.abc import Iterable
from pathlib import Path

from cache.store.spec import Spec

DEMO_DATA = "demo/memes"
DEMO_MODEL = "local-dir:demo/encoder"
# MODEL=demo and --model demo
_SHORT = "demo"
# of demo/encoder/open_clip_model.safetensors, and of the pictures in demo/memes (`content_of`)
_WEIGHTS = "ffc5bc567cc61f79ebdf916f4fb307847c4efe87c37670a75ec247d045fc6595"
_CONTENT = "8619e82e5e347c4c7650f53809bc023c13e0e4a3110653862d384c35ba9476c5"

# From docs/models.md: the first to begin with, the second as in most published results.
_SUGGESTED = ("MODEL=ViT-B-32 PRETRAINED=openai", "MODEL=ViT-L-14 PRETRAINED=openai")
# The same words wherever the demo encoder meets other data.
NOTICE = (
    "This is the demo encoder, which knows only drawn pictures, so its scores mean nothing on real memes: run make embed and "
    f"make tune with a real model, such as {_SUGGESTED[0]} or {_SUGGESTED[1]}."
)


class ModelNotChosen(ValueError):
    """A data set was named, but no model."""


def chosen_model(data: str, model: str | None) -> str:
    """open_clip's name of the model for a data set: the one that was given, the demo's for the demo's data, else ""."""
    if model:
        return DEMO_MODEL if model == _SHORT else model
    return DEMO_MODEL if Path(data).resolve().is_relative_to(Path(DEMO_DATA).resolve()) else ""


def required_model(data: str, model: str | None) -> str:
    """As `chosen_model`; raises ModelNotChosen instead of returning ""."""
    chosen = chosen_model(data, model)
    if not chosen:
        raise ModelNotChosen(f"{data}: no model was chosen; {model_advice(data)}")
    return chosen


def model_advice(data: str) -> str:
    """The command that embeds a data set, with the models to choose from."""
    return (
        f"`make embed DATA={shlex.quote(data)} {_SUGGESTED[0]}` is the model to begin with, {_SUGGESTED[1]} the one of most "
        f"published results (docs/models.md has more), and MODEL={_SHORT} insists on the demo's, which knows only drawn pictures"
    )


def content_of(image_keys: Iterable[str]) -> str:
    """The SHA-256 of a data set's distinct pictures, from their keys; "" stands for a missing picture."""
    return hashlib.sha256("\n".join(sorted(set(image_keys) - {""})).encode()).hexdigest()


def is_demo_encoder(spec: Spec) -> bool:
    """Whether vectors of this spec are the demo encoder's, fine-tuned or not."""
    return spec.get("weights_sha256") == _WEIGHTS


def path_notice(spec: Spec, path: Path) -> str:
    """NOTICE where the demo encoder judges a file or folder outside of the demo's data, else ""."""
    return NOTICE if is_demo_encoder(spec) and not chosen_model(str(path), None) else ""


def demo_notice(spec: Spec, content: str) -> str:
    """NOTICE where the demo encoder meets other data than the demo's, else ""; content: as of `content_of`."""
    return NOTICE if is_demo_encoder(spec) and content != _CONTENT else ""
