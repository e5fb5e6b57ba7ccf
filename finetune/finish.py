"""From a fine-tuned encoder and its heads to a bundle: encoder delta, vectors, evaluation on validation.

Methods are evaluated with vectors that the embedding job makes with the delta, as in the server. The splits are those
before fine-tuning: near-duplicates, and hence an assigned split, could differ between the two encoders' vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import DatasetIndex, Layout, read_index
from embed.clip.delta import DELTA, write_delta
from embed.clip.options import EncoderOptions
from embed.data.choices import CHOICES
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
from finetune.start import Start, UnusableStart, encoder_of
from head.bundle.evaluation import FINETUNED, FROZEN
from head.bundle.settings import Source, bundle_settings
from head.bundle.versions import Version, save_version
from head.data.features import fingerprint, load_tuning, prompt_vectors, usable_rows
from head.fitting import FitData, cross_fitted, fit_all, fit_jobs
from head.judge.calibrated import CalibratedMethod, calibrate_method
from head.model.ensemble import HeadEnsemble
from head.model.method import Method


@dataclass(frozen=True, eq=False)
class TrainedHeads:
    """ensemble: the trained heads, on the CPU; logits: (V,) calibrated logits of the validation memes, cross-fitted over the
    epochs (`finetune.train.cross_fitted_logits`)."""

    ensemble: HeadEnsemble
    logits: np.ndarray


def embed_finetuned(start: Start, delta: dict[str, Tensor], device: str, say: Callable[[str], None]) -> Path:
    """Write the delta to `start.work`, embed the data set with it; the file of the new index, with the splits of the start.
    Raises what `embed_dataset` raises, and UnusableStart if the data changed meanwhile."""
    write_delta(start.work / DELTA, delta)
    model, pretrained = encoder_of(start)
    settings = EmbedSettings(
        start.index.source["data"],
        model,
        pretrained,
        start.artifacts,
        device,
        EncoderOptions.of_spec(start.config["spec"]),
        ocr=bool(start.index.source.get("ocr")),
        delta=start.work / DELTA,
        ocr_lang=start.index.source.get("ocr_lang", ""),
    )
    choices: dict[str, Any] = {name: start.index.source.get(name, "") for name in CHOICES}
    settings = replace(settings, **choices)
    # the pictures that are unchanged need not be hashed again
    embed_dataset(settings, say, start.index, _splits(start))
    index = read_index(settings.index)
    if index.ids != start.index.ids or _usable(index) != _usable(start.index):
        raise UnusableStart(f"{settings.data}: its memes changed while they were trained on; run `make embed` again")
    return settings.index


def save_finetuned(
    start: Start, file: Path, frozen: CalibratedMethod, trained: TrainedHeads, facts: dict[str, Any]
) -> Version:
    """Evaluate on validation and write the bundle; it is not yet in use.

    file: of the new index; facts: how it was trained, the entry "finetuned" of config.json. Raises OSError, Unreachable.
    """
    index, judging, part, ensemble = read_index(file), start.judging, start.parts, trained.ensemble
    vectors = Layout(start.artifacts).vectors
    features = load_tuning(index, vectors, True, start.config["seed"])
    scores = np.full(len(features), np.nan)
    scores[start.folds == 0] = (trained.logits - frozen.calibration.offset) / frozen.calibration.slope
    method = Method(scores, ensemble.score, {"heads": len(ensemble.heads)}, ensemble)
    data = FitData(start.features, prompt_vectors(start.index, vectors), judging.seed, torch.device("cpu"))
    jobs = fit_jobs(start.features, start.folds[None], part, judging.protocol, judging.seed)
    whole, *others = fit_all(data, jobs, workers=1)
    reference, candidates = whole.reference, cross_fitted(whole, list(zip(jobs[1:], others)), len(features))
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
    # The weights of the other methods are left out: the report refits those quickly.
    stored = {
        name: one for name in (FINETUNED, FROZEN, reference) if (one := methods[name].method.ensemble) is not None
    }
    further = {DELTA: (start.work / DELTA).read_bytes()}
    return save_version(Layout(start.artifacts), stored, settings, predictions, further)


def _usable(index: DatasetIndex) -> list[tuple[int, str, str, int]]:
    """(row, keys, label) of the labelled memes with vectors."""
    return [(row, index.image_keys[row], index.text_keys[row], index.labels[row]) for row in usable_rows(index)]


def _splits(start: Start) -> list[str]:
    """Each row's split as used in tuning; what was held out by content is "test"."""
    used = dict(zip(start.features.ids.tolist(), start.features.split.tolist()))
    splits = list(start.index.splits)
    for row in usable_rows(start.index):
        splits[row] = used.get(start.index.ids[row], "test")
    return splits
