"""`python -m api export`: a bundle with its encoder, to be served without a network.

config.json, head.safetensors, metrics.json    without paths of this machine
encoder_delta.safetensors    weight changes of a fine-tuned encoder (see `embed.clip.delta`)
encoder/     the encoder before fine-tuning, in open_clip's format (see `embed.clip.portable`)
training/    ids, labels and embeddings of the memes that were tuned on, for explanations
"""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from api.model.classifier import ENCODER, MemeClassifier, exported_encoder, model_and_pretrained
from api.model.explanation import TRAINING, TrainingMemesChanged, training_memes, training_rows
from api.model.loading import encoder_source
from api.settings import ServeSettings
from cache import (
    KINDS,
    DamagedSegment,
    DatasetIndex,
    Layout,
    MissingVectors,
    Segment,
    SpecMismatch,
    UnusableIndex,
    VectorStore,
    folder_replaced,
    write_index,
)
from embed.clip.delta import DELTA
from embed.clip.portable import SOURCE, WEIGHTS, copy_encoder, probe, save_encoder
from head.bundle.format import UnusableBundle, read_config, write_part

_CPU = torch.device("cpu")
# Not predictions, gallery and report: they hold pictures, texts and test labels.
_COPIED = ("head.safetensors", "metrics.json")
_STEPS = 4
Value = TypeVar("Value")


def export_bundle(settings: ServeSettings, out: Path | None, say: Callable[[str], None]) -> str:
    """Write the bundle with its encoder to `out` atomically, replacing an older export. Returns a summary of the files.

    out: None for a folder under `settings.artifacts`; say: gets a message on what is left out. Raises UnusableBundle,
    EncoderUnavailable, SpecMismatch, OSError, and ValueError for an `out` that must not be replaced.
    """
    folder = settings.bundle.resolve()
    config = read_config(folder)
    # they become part of a path
    name, version = (re.sub(r"^\.+|[^\w.-]", "_", word) for word in (str(config.get("name")), folder.name))
    out = out or Layout(settings.artifacts).export(name, version)
    _require_free(out, folder)
    with tqdm(total=_STEPS, bar_format="{desc} ({n}/{total}, {elapsed})", delay=1, leave=False) as bar:

        def begin(step: str) -> None:
            bar.set_description_str(step, refresh=False)
            bar.update()

        begin("loading the bundle")
        classifier = MemeClassifier.from_bundle(folder, _CPU, *encoder_source(settings))
        config, expected = classifier.config, probe(classifier.encoder)
        del classifier  # not two encoders in memory
        with folder_replaced(out.resolve()) as staging:
            for name in (*_COPIED, *([DELTA] if "delta_sha256" in config["spec"] else [])):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, staging / name)
            write_part(staging, "config.json", _without_paths(config))
            begin("writing the encoder")
            _write_encoder(staging / ENCODER, folder, config, *encoder_source(settings))
            begin("writing the training memes")
            memes = _copy_training(config, training_memes(folder, settings.artifacts), staging / TRAINING)
            begin("loading what was written")
            if not torch.equal(probe(MemeClassifier.from_bundle(staging, _CPU).encoder), expected):
                raise UnusableBundle(
                    f"{folder}: a copy of its encoder computes other embeddings, so nothing was written"
                )
    if isinstance(memes, str):
        say(f"exported without the training memes, so explanations will be empty: {memes}")
    return _summary(out, memes)


def _require_free(out: Path, bundle: Path) -> None:
    if out.resolve() in (bundle, *bundle.parents):
        raise ValueError(f"--out {out}: the bundle itself, or a folder that contains it; give another folder")
    # only an export is replaced: another bundle may be the only copy
    if out.exists() and not (out / ENCODER / SOURCE).is_file():
        raise ValueError(f"--out {out}: exists and is not an export; give another folder")


def _write_encoder(
    target: Path, bundle: Path, config: dict[str, Any], model: str | None, pretrained: str | None
) -> None:
    inside = exported_encoder(bundle, model, pretrained)
    if inside:  # checked when it was loaded
        copy_encoder(inside, target)
    else:
        save_encoder(target, *model_and_pretrained(config, model, pretrained), config["spec"])


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The config without folders of this machine. The version stays: the predictions are the same."""
    encoder = {name: _last_part(value) for name, value in config["encoder"].items()}
    return {**config, "encoder": encoder, "data": {**config["data"], "source": Path(config["data"]["source"]).name}}


def _last_part(name: str) -> str:
    """The last part of a path; names of models and tags are unchanged."""
    scheme, found, path = name.rpartition("local-dir:")
    if name.startswith("hf-hub:"):
        return name
    return scheme + found + Path(path).name


def _copy_training(config: dict[str, Any], source: Path, target: Path) -> int | str:
    """Copy the training index, without content, and its embeddings. Returns the number of memes, or why there are none."""
    try:
        index, rows = training_rows(config, source)
        store = VectorStore(Layout(source).vectors, index.spec)
        segments = {
            kind: _segment(store, kind, [getattr(index, f"{kind}_keys")[row] for row in rows]) for kind in KINDS
        }
    except (UnusableIndex, TrainingMemesChanged, SpecMismatch, MissingVectors, DamagedSegment) as error:
        return str(error)
    copied = VectorStore(Layout(target).vectors, index.spec)
    for kind, segment in segments.items():
        copied.add(kind, segment)
    write_index(
        Layout(target).datasets / Path(config["data"]["index"]).name, _without_content(index, set(rows.tolist()))
    )
    return len(rows)


def _segment(store: VectorStore, kind: str, keys: Sequence[str]) -> Segment:
    keys = list(dict.fromkeys(keys))
    tokens = store.token_counts(keys) if kind == "text" else np.zeros(len(keys), np.int32)
    return Segment(keys, store.read(kind, keys), tokens)


def _without_content(index: DatasetIndex, rows: set[int]) -> DatasetIndex:
    """The index without paths of pictures, texts and prompts. Memes that are not in `rows` keep nothing and get the split
    test, which explanations leave out."""

    def only(values: Sequence[Value], blank: Value) -> list[Value]:
        return [value if row in rows else blank for row, value in enumerate(values)]

    nothing = [""] * len(index)
    return replace(
        index,
        ids=only(index.ids, ""),
        splits=only(index.splits, "test"),
        labels=only(index.labels, -1),
        image_keys=only(index.image_keys, ""),
        text_keys=only(index.text_keys, ""),
        text_tokens=only(index.text_tokens, 0),
        text_cut=only(index.text_cut, 0),
        groups=only(index.groups, ""),
        images=nothing,
        texts=nothing,
        skipped=nothing,
        image_stamps=nothing,
        source={name: _last_part(value) for name, value in index.source.items()},
        prompts={},
    )


def _summary(out: Path, memes: int | str) -> str:
    sizes = {path.relative_to(out): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    tops = (DELTA, ENCODER, TRAINING)
    named = {top: sum(size for path, size in sizes.items() if path.parts[0] == top) for top in tops}
    heads = sum(sizes.values()) - sum(named.values())
    names = sorted(path.name for path in sizes if len(path.parts) == 1 and path.name != DELTA)
    delta = [f"delta     {DELTA}, added to the encoder on loading ({_megabytes(named[DELTA])})"]
    training = (
        "none" if isinstance(memes, str) else f"ids, labels and vectors of {memes:,} memes, no pictures, no texts"
    )
    return "\n".join(
        (
            f"export    {out} ({_megabytes(sum(sizes.values()))})",
            f"heads     {', '.join(names)} ({_megabytes(heads)})",
            *(delta if named[DELTA] else []),
            f"encoder   {ENCODER}/{WEIGHTS} and its config files ({_megabytes(named[ENCODER])})",
            f"training  {training} ({_megabytes(named[TRAINING])})",
            f"next      make serve BUNDLE={shlex.quote(str(out))}",
        )
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
