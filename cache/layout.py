"""Where everything stands under the folder of results, `artifacts/`: the one place that spells these paths.

    vectors/<spec id>/       one store per feature spec; encoders.json beside them
    datasets/*.h5            one index per data set and encoder
    splits/*.h5              the record of a data set's parts
    readings/                words read off pictures
    audit/*.html             pages of `python -m embed audit`
    studies.sqlite3          the tuning studies
    bundles/<name>/          model bundles; `latest` is a link
    nested/, finetune/, exports/, test-readings/    what these commands write

It opens and makes nothing.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# What a name may say of its vectors; the first of each is usual and needs no mention.
FEATURES = ("projected", "pooled", "both")
LONG_TEXTS = ("truncate", "chunk")
# Of an audit's page, in characters: file systems take names of 255 bytes.
_LONGEST_NAME = 90


@dataclass(frozen=True)
class DatasetRequest:
    """A data set under an encoder, as the user names both: what the index's file is found by.

    data: a folder or a table, or an index file; model, pretrained: open_clip's names; features: of FEATURES; long_text: of
    LONG_TEXTS; finetuned: under the encoder that fine-tuning changed.
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
        """Which spec a model name led to (`embed.clip.recall`)."""
        return self.vectors / "encoders.json"

    @property
    def datasets(self) -> Path:
        """The folder of the indexes."""
        return self.artifacts / "datasets"

    @property
    def readings(self) -> Path:
        """The folder of the words read off pictures, a file for each engine."""
        return self.artifacts / "readings"

    @property
    def studies(self) -> Path:
        """The database of the tuning studies, where no other is named."""
        return self.artifacts / "studies.sqlite3"

    def index(self, request: DatasetRequest) -> Path:
        """The index of a data set under an encoder.

        It follows from what the user types, so that the embedding job and the tuner find the same file; the hashes keep apart
        two folders, or two checkpoints, of one name.
        """
        encoder = f"{request.model}|{absolute_if_file(request.pretrained)}"
        variants = [request.features, request.long_text] + ["finetuned"] * request.finetuned
        variant = "".join(f"-{word}" for word in variants if word not in (FEATURES[0], LONG_TEXTS[0]))
        return self.named_index(f"{data_name(request.data)}--{_slug(request.model)}-{_short(encoder)}{variant}")

    def named_index(self, name: str) -> Path:
        """The index of this name."""
        return self.datasets / f"{name}.h5"

    def splits(self, data: str) -> Path:
        """The record of a data set's parts, which all encoders share."""
        return self.artifacts / "splits" / f"{data_name(data)}.h5"

    def audit_page(self, data: str) -> Path:
        """The audit's page; of a name that is too long for a file, its end."""
        return self.artifacts / "audit" / f"{data_name(data)[-_LONGEST_NAME:]}.html"

    def bundle(self, name: str) -> Path:
        """The folder of a model bundle."""
        return self.artifacts / "bundles" / name

    def nested(self, name: str) -> Path:
        """The folder of a nested cross-validation; name: of the index."""
        return self.artifacts / "nested" / name

    def finetune(self, bundle: str) -> Path:
        """The folder of a fine-tuning in progress, from a bundle of this name."""
        return self.artifacts / "finetune" / bundle

    def export(self, name: str) -> Path:
        """The folder that a bundle is exported to, where no other is named."""
        return self.artifacts / "exports" / name

    def test_readings(self, data: str) -> Path:
        """The record of how often a data set's test memes were evaluated."""
        return self.artifacts / "test-readings" / f"{data}.jsonl"


def data_name(data: str) -> str:
    """A data folder's name as part of a file's name; the hash of its whole path keeps apart two of one name."""
    path = Path(data).resolve()
    return f"{_slug(path.name)}-{_short(str(path))}"


def absolute_if_file(pretrained: str) -> str:
    """A checkpoint's full path, so that it has one name from every folder; a tag, or nothing, stays as it is."""
    return str(Path(pretrained).resolve()) if pretrained and Path(pretrained).is_file() else pretrained


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
