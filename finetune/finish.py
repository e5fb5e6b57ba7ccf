"""From a fine-tuned encoder and its heads to a bundle: the delta, the vectors, the judgement.

Everything is judged as the server will answer: by vectors that the embedding job made with the delta. The splits are
those of the start; near-copies, and so a carved split, would differ between the two encoders' vectors.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import DatasetIndex, read_index, write_index
from embed.clip.delta import DELTA, write_delta
from embed.clip.options import EncoderOptions
from embed.job import EmbedSettings, embed_dataset
from embed.pictures.hash_log import HashLog
from finetune.start import Start, UnusableStart, encoder_of
from head.bundle.evaluation import FINETUNED, FROZEN
from head.bundle.format import point_latest, save_bundle
from head.bundle.settings import Source, bundle_settings
from head.data.features import fingerprint, load_tuning, prompt_vectors, usable_rows
from head.fitting import Memes, crossed, fit_all, fits_of
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.model.ensemble import HeadEnsemble
from head.model.method import Method


def embed_finetuned(
    start: Start, delta: dict[str, Tensor], folder: Path, artifacts: Path, device: str, say: Callable[[str], None]
) -> Path:
    """Write the delta to `folder`, embed the data set with it, and return the file of its index, which has the splits of
    the start. Raises what `embed_dataset` raises, and UnusableStart where the data changed meanwhile."""
    write_delta(folder / DELTA, delta)
    model, pretrained = encoder_of(start)
    settings = EmbedSettings(
        start.index.source["data"],
        model,
        pretrained,
        artifacts,
        device,
        EncoderOptions.of_spec(start.config["spec"]),
        ocr=bool(start.index.source.get("ocr")),
        delta=folder / DELTA,
        images=start.index.source.get("images", ""),
    )
    known = zip(start.index.images, start.index.image_stamps, start.index.image_keys)
    # so that no picture is read only to be hashed again
    HashLog(settings.index, settings.images).add([one for one in known if one[1]])
    embed_dataset(settings, say)
    index = read_index(settings.index)
    if index.ids != start.index.ids or _usable(index) != _usable(start.index):
        raise UnusableStart(f"{settings.data}: its memes changed while they were trained on; run `make embed` again")
    write_index(settings.index, replace(index, splits=_splits(start)))
    return settings.index


def save_finetuned(
    start: Start,
    file: Path,
    frozen: CalibratedMethod,
    ensemble: HeadEnsemble,
    logits: np.ndarray,
    delta: Path,
    artifacts: Path,
    facts: dict[str, Any],
) -> tuple[Path, dict[str, Any]]:
    """Judge on validation, write the bundle, and make it the latest; its folder and its settings.

    file: of the index; ensemble: the trained one, on the CPU; logits: (V,) its calibrated logits of the memes of validation,
    each after the epoch that the other parts would have chosen; facts: how it was trained, for config.json.
    """
    index, judging, part = read_index(file), start.judging, start.parts
    features = load_tuning(index, artifacts / "vectors", True, start.config["seed"])
    scores = np.full(len(features), np.nan)
    scores[start.folds == 0] = (logits - frozen.calibration.offset) / frozen.calibration.slope
    method = Method(scores, ensemble.score, {"heads": len(ensemble.heads)}, ensemble)
    memes = Memes(start.features, prompt_vectors(start.index, artifacts / "vectors"), judging.seed, torch.device("cpu"))
    fits = fits_of(start.features, start.folds[None], part, judging.protocol, judging.seed)
    whole, *others = fit_all(memes, fits, jobs=1)
    reference, candidates = whole.reference, crossed(whole, list(zip(fits[1:], others)), len(features))
    methods = {FINETUNED: calibrate_method(method, features.label, part, judging.aim), FROZEN: frozen}
    methods |= {
        name: calibrate_method(one, start.features.label, part, judging.aim) for name, one in candidates.items()
    }
    settings, predictions = bundle_settings(
        Source(file, index, features, fingerprint(features, index.spec)),
        judging,
        methods,
        np.flatnonzero(part >= 0),
        FINETUNED,
        reference=reference,
        study={**start.config["study"], "protocol": start.config["protocol"]},
        finetuned=facts,
    )
    folder = artifacts / "bundles" / file.stem
    # The other methods are quickly fitted again when the report wants them.
    kept = {name: one for name in (FINETUNED, FROZEN, reference) if (one := methods[name].method.ensemble) is not None}
    save_bundle(folder, kept, settings, predictions, {DELTA: delta.read_bytes()})
    point_latest(folder)
    return folder, settings


def _usable(index: DatasetIndex) -> list[tuple[int, str, str, int]]:
    """Row, keys and label of the memes that can be used."""
    return [(row, index.image_keys[row], index.text_keys[row], index.labels[row]) for row in usable_rows(index)]


def _splits(start: Start) -> list[str]:
    """Every row's split as it was used; what was carved for test, too."""
    used = dict(zip(start.features.ids.tolist(), start.features.split.tolist()))
    splits = list(start.index.splits)
    for row in usable_rows(start.index):
        splits[row] = used.get(start.index.ids[row], "test")
    return splits
