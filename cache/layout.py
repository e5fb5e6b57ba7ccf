"""All paths under `artifacts/`; no other module spells them.

    vectors/<spec id>/       one store per feature spec; encoders.json beside them
    datasets/*.h5            one index per data set and encoder
    datasets/*.choices.json  what the user said about a data set, see `embed.data.choices`
    splits/*.h5              content-based parts of a data set, see `cache.index.parts`
    readings/                OCR results
    ocr/                     OCR models that the user adds, see `embed.ocr.recognisers`
    audit/*.html             pages of `python -m embed audit`
    studies.sqlite3          the tuning studies
    bundles/<name>/<version>/    model bundles, see `cache.bundles`
    nested/, finetune/, exports/, scores/, test-readings/    output of these commands

It computes paths and touches no file.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

# Variants of vectors that become part of an index's name; the first of each is the default and is left out.
FEATURES = ("projected", "pooled", "both")
LONG_TEXTS = ("truncate", "chunk")
# The end of an index's name, after the model's.
_VARIANT = re.compile(rf"-[0-9a-f]{{6}}((?:-(?:{'|'.join((*FEATURES[1:], *LONG_TEXTS[1:]))}))*)$")
# File systems limit names to 255 bytes; temporary files and those beside an index add up to 27. What is cut off is the
# beginning of a name: its end has the hashes and the variant.
_LONGEST_INDEX = 228
_LONGEST_HALF = 100
_LONGEST_PAGE = 90


@dataclass(frozen=True)
class DatasetRequest:
    """A data set and an encoder as the user names them; determines the path of the dataset index.

    data: a folder, a table or an index file; model, pretrained: open_clip's names, model "": that of the only index of
    the data; features: one of FEATURES;
    long_text: one of LONG_TEXTS; finetuned: whether the encoder is a fine-tuned one.
    """

    data: str
    model: str
    pretrained: str = ""
    features: str = FEATURES[0]
    long_text: str = LONG_TEXTS[0]
    finetuned: bool = False


@dataclass(frozen=True)
class Layout:
    """The paths under one folder of results."""

    artifacts: Path

    @property
    def vectors(self) -> Path:
        """The folder of the stores."""
        return self.artifacts / "vectors"

    @property
    def encoders(self) -> Path:
        """The specs that model names resolved to (`embed.clip.recall`)."""
        return self.vectors / "encoders.json"

    @property
    def datasets(self) -> Path:
        """The folder of the indexes."""
        return self.artifacts / "datasets"

    @property
    def readings(self) -> Path:
        """The folder of OCR results, one file per engine."""
        return self.artifacts / "readings"

    @property
    def ocr_models(self) -> Path:
        """The folder of OCR models for further scripts."""
        return self.artifacts / "ocr"

    @property
    def studies(self) -> Path:
        """The default database of the tuning studies."""
        return self.artifacts / "studies.sqlite3"

    def index(self, request: DatasetRequest) -> Path:
        """The index of a data set under an encoder.

        The name is derived from the user's arguments alone, so the embedding job and the tuner find the same file;
        hashes of the full paths distinguish folders and checkpoints of the same name.
        """
        encoder = f"{request.model}|{absolute_if_file(request.pretrained)}"
        variants = [request.features, request.long_text] + ["finetuned"] * request.finetuned
        variant = "".join(f"-{word}" for word in variants if word not in (FEATURES[0], LONG_TEXTS[0]))
        data, model = data_name(request.data), f"{_slug(request.model)}-{_short_hash(encoder)}{variant}"
        if len(f"{data}--{model}") > _LONGEST_INDEX:
            data, model = data[-_LONGEST_HALF:], model[-_LONGEST_HALF:]
        return self.named_index(f"{data}--{model}")

    def indexes(self, request: DatasetRequest) -> list[Path]:
        """The existing indexes of a data set under any model; only those of a variant that is not the default, if one is
        requested. Those of fine-tuned encoders are left out, since these have seen the labels."""
        wanted = {request.features, request.long_text} - {FEATURES[0], LONG_TEXTS[0]}
        data = data_name(request.data)
        return [
            path
            for name in sorted({data, data[-_LONGEST_HALF:]})
            for path in sorted(self.datasets.glob(f"{name}--*.h5"))
            if (named := _VARIANT.search(path.stem)) and wanted <= set(named[1].split("-"))
        ]

    def named_index(self, name: str) -> Path:
        """The index of this name."""
        return self.datasets / f"{name}.h5"

    def choices(self, data: str) -> Path:
        """What the user said about a data set beyond its folder."""
        return self.datasets / f"{data_name(data)}.choices.json"

    def splits(self, data: str) -> Path:
        """The parts of a data set, shared by all encoders."""
        return self.artifacts / "splits" / f"{data_name(data)}.h5"

    def audit_page(self, data: str) -> Path:
        """The audit's page."""
        return self.artifacts / "audit" / f"{data_name(data)[-_LONGEST_PAGE:]}.html"

    @property
    def bundles(self) -> Path:
        """The folder of the model bundles."""
        return self.artifacts / "bundles"

    def bundle(self, name: str) -> Path:
        """The folder of the versions of a model bundle."""
        return self.bundles / name

    def nested(self, name: str) -> Path:
        """The folder of a nested cross-validation; name: of the index."""
        return self.artifacts / "nested" / name

    def finetune(self, bundle: str) -> Path:
        """The folder of a fine-tuning in progress, from a bundle of this name."""
        return self.artifacts / "finetune" / bundle

    def export(self, name: str, version: str) -> Path:
        """The default folder for exporting a version of a bundle."""
        return self.artifacts / "exports" / name / version

    def scores(self, index: str, version: str) -> Path:
        """The default file for the probabilities of an index's memes."""
        return self.artifacts / "scores" / f"{index}--{version}.csv"

    def test_readings(self, data: str) -> Path:
        """The log of evaluations on a data set's test memes."""
        return self.artifacts / "test-readings" / f"{data}.jsonl"


def data_name(data: str) -> str:
    """A data folder's name and a hash of its full path, for use in a file name."""
    path = Path(data).resolve()
    return f"{_slug(path.name)}-{_short_hash(str(path))}"[-_LONGEST_INDEX:]


def absolute_if_file(pretrained: str) -> str:
    """The absolute path of a checkpoint file, independent of the working directory; a tag or "" is unchanged."""
    return str(Path(pretrained).resolve()) if names_a_file(pretrained) else pretrained


def names_a_file(pretrained: str) -> bool:
    """Whether it is a checkpoint file; a word without suffix and folder is a tag, whatever lies in the working directory."""
    return bool(os.path.dirname(pretrained) or os.path.splitext(pretrained)[1]) and os.path.isfile(pretrained)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
