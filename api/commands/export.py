"""A bundle with all that serving it takes, the encoder's weights too, and nothing that shows memes.

    config.json, head.safetensors, metrics.json    as they were, less what names places on this machine
    encoder_delta.safetensors    what fine-tuning changed of the encoder, where it did (see `embed.clip.delta`)
    encoder/     the encoder as it was before, as any open_clip loads it (see `embed.clip.portable`)
    training/    ids, labels and vectors of the memes that were tuned on, for explanations

`python -m api export` writes one; `python -m api serve --bundle` serves it without a network.
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

from api.model.classifier import ENCODER, MemeClassifier, encoder_inside, encoder_named
from api.model.explanation import TRAINING, UntoldMemes, training_memes, tuned_on
from api.model.loading import encoder_source
from api.settings import ServeSettings
from cache import (
    KINDS,
    DamagedSegment,
    DatasetIndex,
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
# Predictions, gallery and report have memes' pictures, words and test labels in them.
_KEPT = ("head.safetensors", "metrics.json")
_STEPS = 4
Value = TypeVar("Value")


def export_bundle(settings: ServeSettings, out: Path | None, say: Callable[[str], None]) -> str:
    """Write the bundle with its encoder to `out`, whole or not at all, and in the place of an older export; return what
    was written, in words.

    out: None for one under the folder of results; say: told what had to be left out. Raises UnusableBundle,
    EncoderUnavailable, SpecMismatch, OSError; ValueError for an `out` that must not be replaced.
    """
    folder = settings.bundle.resolve()
    config = read_config(folder)
    # the name comes from a file, and becomes part of a path
    out = out or settings.artifacts / "exports" / re.sub(r"^\.+|[^\w.-]", "_", str(config.get("name")))
    _require_free(out, folder)
    with tqdm(total=_STEPS, bar_format="{desc} ({n}/{total}, {elapsed})", delay=1, leave=False) as bar:

        def begin(step: str) -> None:
            bar.set_description_str(step, refresh=False)
            bar.update()

        begin("loading the bundle")
        classifier = MemeClassifier.from_bundle(folder, _CPU, *encoder_source(settings))
        config, expected = classifier.config, probe(classifier.encoder)
        del classifier  # a large encoder need not be in memory twice
        with folder_replaced(out.resolve()) as staging:
            for name in (*_KEPT, *([DELTA] if "delta_sha256" in config["spec"] else [])):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, staging / name)
            write_part(staging, "config.json", _public(config))
            begin("writing the encoder")
            _write_encoder(staging / ENCODER, folder, config, *encoder_source(settings))
            begin("writing the training memes")
            memes = _copy_training(config, training_memes(folder, settings.artifacts), staging / TRAINING)
            begin("loading what was written")
            if not torch.equal(probe(MemeClassifier.from_bundle(staging, _CPU).encoder), expected):
                raise UnusableBundle(f"{folder}: a copy of its encoder makes other vectors, so nothing was written")
    if isinstance(memes, str):
        say(f"without the training memes, so explain=true will find nothing to compare with: {memes}")
    return _said(out, memes)


def _require_free(out: Path, bundle: Path) -> None:
    if out.resolve() in (bundle, *bundle.parents):
        raise ValueError(f"--out {out}: the bundle itself, or a folder that holds it; give another folder")
    # a bundle without its encoder may be the only one, with its one look at test
    if out.exists() and not (out / ENCODER / SOURCE).is_file():
        raise ValueError(f"--out {out}: there already, and not an export that could be replaced; give another folder")


def _write_encoder(
    target: Path, bundle: Path, config: dict[str, Any], model: str | None, pretrained: str | None
) -> None:
    inside = encoder_inside(bundle, model, pretrained)
    if inside:  # whole, or it had not been loaded
        copy_encoder(inside, target)
    else:
        save_encoder(target, *encoder_named(config, model, pretrained), config["spec"])


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """The config, less the places of files on this machine. The bundle keeps its version: its answers are the same."""
    encoder = {name: _last_part(value) for name, value in config["encoder"].items()}
    return {**config, "encoder": encoder, "data": {**config["data"], "source": Path(config["data"]["source"]).name}}


def _last_part(name: str) -> str:
    """Of a path; names of models and tags stay as they are."""
    scheme, found, path = name.rpartition("local-dir:")
    if name.startswith("hf-hub:"):
        return name
    return scheme + found + Path(path).name


def _copy_training(config: dict[str, Any], source: Path, target: Path) -> int | str:
    """Copy of the training index what explanations read, and its vectors; the number of memes, or why there are none."""
    try:
        index, rows = tuned_on(config, source)
        store = VectorStore(source / "vectors", index.spec)
        segments = {
            kind: _segment(store, kind, [getattr(index, f"{kind}_keys")[row] for row in rows]) for kind in KINDS
        }
    except (UnusableIndex, UntoldMemes, SpecMismatch, MissingVectors, DamagedSegment) as error:
        return str(error)
    copied = VectorStore(target / "vectors", index.spec)
    for kind, segment in segments.items():
        copied.add(kind, segment)
    write_index(target / "datasets" / Path(config["data"]["index"]).name, _bare(index, set(rows.tolist())))
    return len(rows)


def _segment(store: VectorStore, kind: str, keys: Sequence[str]) -> Segment:
    keys = list(dict.fromkeys(keys))
    tokens = store.token_counts(keys) if kind == "text" else np.zeros(len(keys), np.int32)
    return Segment(keys, store.read(kind, keys), tokens)


def _bare(index: DatasetIndex, rows: set[int]) -> DatasetIndex:
    """The index without pictures' places, texts and prompts, and without anything of the memes that are not in `rows`,
    which become test: that is how explanations know whom to leave out, also where the data do not say it."""

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


def _said(out: Path, memes: int | str) -> str:
    sizes = {path.relative_to(out): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    tops = (DELTA, ENCODER, TRAINING)
    named = {top: sum(size for path, size in sizes.items() if path.parts[0] == top) for top in tops}
    heads = sum(sizes.values()) - sum(named.values())
    names = sorted(path.name for path in sizes if len(path.parts) == 1 and path.name != DELTA)
    delta = [f"delta     {DELTA}, added to the encoder as it is loaded ({_megabytes(named[DELTA])})"]
    training = (
        "none" if isinstance(memes, str) else f"ids, labels and vectors of {memes:,} memes, no pictures, no texts"
    )
    return "\n".join(
        (
            f"export    {out} ({_megabytes(sum(sizes.values()))})",
            f"heads     {', '.join(names)} ({_megabytes(heads)})",
            *(delta if named[DELTA] else []),
            f"encoder   {ENCODER}/{WEIGHTS} and what describes it ({_megabytes(named[ENCODER])})",
            f"training  {training} ({_megabytes(named[TRAINING])})",
            f"next      make serve BUNDLE={shlex.quote(str(out))}",
        )
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
