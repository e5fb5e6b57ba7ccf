"""One module from picture and tokens to the probability of `offensive`, rebuilt from a bundle on disk.

    classifier = MemeClassifier.from_bundle(Path("artifacts/bundles/latest"), torch.device("cpu"))
    pixels, tokens = classifier.prepare_image(image_bytes), classifier.prepare_text("the text on it")
    classifier([pixels], [tokens])   # -> tensor([0.87])

A bundle that `python -m api export` wrote has its encoder in itself, and is rebuilt without a network. One that
`python -m finetune` wrote has beside its head what was changed of the encoder (see `embed.clip.delta`), and that is added to
the encoder wherever it comes from. It goes through the same decoding, transform and tokenizer as the embedding job; it
knows nothing of HTTP.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache import file_digest, require_same_spec
from embed.clip.delta import DELTA
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions
from embed.clip.portable import load_portable
from head.bundle.format import Bundle, UnusableBundle, load_bundle

# Where an exported bundle has its encoder.
ENCODER = "encoder"


class MemeClassifier(nn.Module):
    """A frozen CLIP, the heads that were trained on its vectors, and their calibration."""

    def __init__(self, encoder: ClipEncoder, bundle: Bundle) -> None:
        """Join the two. Raises SpecMismatch when the heads were trained on another encoder's vectors."""
        super().__init__()
        name = bundle.config["name"]
        require_same_spec(bundle.config["spec"], encoder.spec, f"the bundle {name} and the encoder that was loaded")
        self.image_tower, self.text_tower = encoder.image_tower, encoder.text_tower
        self.head = bundle.shipped.to(encoder.device)
        self.calibration = bundle.calibration
        self.name: str = name
        self.version: str = bundle.config["version"]
        self.config = bundle.config
        self.threshold: float = bundle.config["threshold"]
        # probabilities from low to below high are left to a person; None where the bundle answers always
        band = bundle.config["review"]
        self.review: dict[str, float] | None = band and {end: band[end] for end in ("low", "high")}
        self._encoder = encoder
        self.eval()

    @classmethod
    def from_bundle(
        cls,
        folder: Path,
        device: torch.device,
        model: str | None = None,
        pretrained: str | None = None,
        loaded: ClipEncoder | None = None,
    ) -> "MemeClassifier":
        """Rebuild from a bundle; `model` and `pretrained` say where its encoder is now, if neither in the bundle nor
        where it was; `loaded`: an encoder that is used where it is the bundle's own.

        Raises UnusableBundle, EncoderUnavailable or SpecMismatch, each naming what to do.
        """
        bundle = load_bundle(folder)
        if "imported" in bundle.config["spec"]:
            raise UnusableBundle(
                f"{folder}: its head was tuned on imported vectors, and no encoder here makes such; tune on vectors of "
                "`make embed`, or on a file that `python -m cache export` wrote"
            )
        if loaded is not None and loaded.spec == bundle.config["spec"]:
            return cls(loaded, bundle)
        options, delta = EncoderOptions.of_spec(bundle.config["spec"]), delta_inside(folder, bundle.config)
        inside = encoder_inside(folder, model, pretrained)
        if inside:
            return cls(load_portable(inside, device, options, delta), bundle)
        return cls(load_encoder(*encoder_named(bundle.config, model, pretrained), device, options, delta), bundle)

    @property
    def encoder(self) -> ClipEncoder:
        """What makes the vectors; another bundle of the same spec can take it over."""
        return self._encoder

    def prepare_image(self, data: bytes) -> Tensor:
        """Image bytes -> pixels (H, W, 3) uint8. Raises UnreadableImage."""
        return self._encoder.pixels(data)

    def prepare_text(self, text: str) -> Tensor:
        """A text that `clean_text` has cleaned -> token rows (P, L) int64."""
        return self._encoder.tokens(text)

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """N prepared pictures -> (N, Di) float32."""
        return self._encoder.image_features(pixels)

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """N prepared texts -> (N, Dt) float32."""
        return self._encoder.text_features(tokens)

    @torch.inference_mode()
    def judge(self, image: Tensor, text: Tensor) -> Tensor:
        """(N, Di) and (N, Dt) vectors -> (N,) float64 probabilities of `offensive`."""
        logits = self.head(image, text).double()
        return torch.sigmoid(self.calibration.slope * logits + self.calibration.offset)

    def forward(self, pixels: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
        """N prepared pictures and N prepared texts -> (N,) float64 probabilities of `offensive`."""
        return self.judge(self.encode_images(pixels), self.encode_texts(tokens))

    def warm_up(self, most: int = 1) -> None:
        """Run on nothing in particular, once alone and once `most` at a time: the first calls of a torch module are
        several times slower."""
        size = self._encoder.spec["preprocess"]["size"]
        height, width = (size, size) if isinstance(size, int) else size
        blank, silent = torch.zeros(height, width, 3, dtype=torch.uint8), self.prepare_text("")
        for count in {1, most}:
            self([blank] * count, [silent] * count)


def encoder_inside(folder: Path, model: str | None, pretrained: str | None) -> Path | None:
    """The encoder that an exported bundle has in itself; None where it has none, or where another is asked for."""
    inside = folder / ENCODER
    return inside if model is None and pretrained is None and inside.is_dir() else None


def delta_inside(folder: Path, config: dict[str, Any]) -> Path | None:
    """What fine-tuning changed of the bundle's encoder; None where the bundle is of an encoder as it was found. Raises
    UnusableBundle for a file that is missing, damaged or of another bundle."""
    expected = config["spec"].get("delta_sha256")
    if expected is None:
        return None
    path = folder / DELTA
    try:
        whole = file_digest(path) == expected
    except OSError as error:
        raise UnusableBundle(
            f"{path}: cannot be read ({error.strerror}), and the bundle's encoder was fine-tuned; copy the bundle again, whole"
        ) from error
    if not whole:
        raise UnusableBundle(f"{path}: not the fine-tuning of config.json; copy the bundle again, whole")
    return path


def encoder_named(config: dict[str, Any], model: str | None, pretrained: str | None) -> tuple[str, str]:
    """Model and pretrained as they are asked for, else as the bundle's config has them."""
    source = config["encoder"]
    return source["model"] if model is None else model, source["pretrained"] if pretrained is None else pretrained
