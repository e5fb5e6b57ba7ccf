"""Settings of a run of the embedding job."""

from dataclasses import dataclass, field
from pathlib import Path

from cache import DatasetRequest, Layout
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.data.choices import CHOICES, Choices
from embed.engines.local import ENGINES


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of a run.

    data: a folder or a table; images, links, columns, label, positive: see `embed.data.choices.Choices`, None to take
    what was given before; model, pretrained: open_clip's names; device: one of `embed.clip.options.DEVICES`;
    retry_failed: retry pictures that an earlier run could not decode; rehash: read every picture, also those with
    unchanged size and times; ocr: fill empty texts by OCR, None to keep what the index has of it and read nothing;
    ocr_lang: the language of its model, "" for RapidOCR's own; delta: changes by fine-tuning, a file of
    `embed.clip.delta`; engine: one of `embed.engines.local.ENGINES`.
    """

    data: str
    model: str
    pretrained: str = ""
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    options: EncoderOptions = field(default_factory=EncoderOptions)
    retry_failed: bool = False
    rehash: bool = False
    ocr: bool | None = None
    delta: Path | None = None
    engine: str = ENGINES[0]
    images: str | None = None
    links: str | None = None
    columns: str | None = None
    label: str | None = None
    positive: str | None = None
    ocr_lang: str = ""

    @property
    def encoder(self) -> EncoderRequest:
        """The requested encoder."""
        return EncoderRequest(self.model, self.pretrained, self.options, self.delta)

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        options, finetuned = self.options, self.delta is not None
        request = DatasetRequest(self.data, self.model, self.pretrained, options.features, options.long_text, finetuned)
        return self.layout.index(request)

    @property
    def choices(self) -> Choices:
        """What the user says about the data set."""
        return Choices(**{name: getattr(self, name) or "" for name in CHOICES})

    @property
    def layout(self) -> Layout:
        """The paths of the results."""
        return Layout(self.artifacts)
