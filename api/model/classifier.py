"""The classifier of a bundle as one torch module: pixels and tokens to the probability of `offensive`.

    classifier = MemeClassifier.from_bundle(Path("artifacts/bundles/latest"), torch.device("cpu"))
    pixels, tokens = classifier.prepare_image(image_bytes), classifier.prepare_text("the text on it")
    classifier([pixels], [tokens])   # -> tensor([0.87])

A bundle of `python -m api export` contains its encoder and needs no network. One of `python -m finetune` contains the
encoder's weight changes (see `embed.clip.delta`), which are added to the encoder. Preprocessor and tokenizer are those of
the embedding job.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache import file_digest, require_same_spec
from embed.base.text import clean_text
from embed.clip.delta import DELTA
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions
from embed.clip.portable import load_portable
from embed.clip.preprocessor import Picture, height_and_width
from head.bundle.format import Bundle, UnusableBundle, load_bundle

# Folder of the encoder in an exported bundle.
ENCODER = "encoder"


class MemeClassifier(nn.Module):
    """A CLIP encoder, the heads that were trained on its embeddings, and their calibration."""

    def __init__(self, encoder: ClipEncoder, bundle: Bundle) -> None:
        """Raises SpecMismatch if the heads were trained on embeddings of another encoder."""
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
        # probabilities in [low, high) are answered `review`; None: never
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
        """Load a bundle. model, pretrained: of the open_clip encoder, None for the bundle's; loaded: an encoder that is
        reused if it has the bundle's spec.

        Raises UnusableBundle, EncoderUnavailable, SpecMismatch.
        """
        bundle = load_bundle(folder)
        if "imported" in bundle.config["spec"]:
            raise UnusableBundle(
                f"{folder}: its head was tuned on imported vectors, which no encoder here can compute; tune on vectors "
                "of `make embed`, or on a file that `python -m cache export` wrote"
            )
        if loaded is not None and loaded.spec == bundle.config["spec"]:
            return cls(loaded, bundle)
        options, delta = EncoderOptions.of_spec(bundle.config["spec"]), bundle_delta(folder, bundle.config)
        inside = exported_encoder(folder, model, pretrained)
        if inside:
            return cls(load_portable(inside, device, options, delta), bundle)
        return cls(
            load_encoder(*model_and_pretrained(bundle.config, model, pretrained), device, options, delta), bundle
        )

    @property
    def encoder(self) -> ClipEncoder:
        """The encoder, which another bundle of the same spec can reuse."""
        return self._encoder

    def predict(self, picture: Picture, text: str = "") -> float:
        """The probability of `offensive` for one meme; picture: the bytes of an image file, or a PIL image. Raises
        UnreadableImage."""
        return float(self([self.prepare_image(picture)], [self.prepare_text(clean_text(text))])[0])

    def prepare_image(self, picture: Picture) -> Tensor:
        """The bytes of an image file, or a PIL image -> pixels (H, W, 3) uint8. Raises UnreadableImage."""
        return self._encoder.pixels(picture)

    def prepare_text(self, text: str) -> Tensor:
        """A text cleaned by `clean_text` -> tokens (P, L) int64: one row, or one for each piece."""
        return self._encoder.tokens(text)

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """N outputs of `prepare_image` -> (N, Di) float32 embeddings."""
        return self._encoder.image_features(pixels)

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """N outputs of `prepare_text` -> (N, Dt) float32 embeddings."""
        return self._encoder.text_features(tokens)

    @torch.inference_mode()
    def probabilities(self, image: Tensor, text: Tensor) -> Tensor:
        """(N, Di) and (N, Dt) float32 embeddings -> (N,) float64 calibrated probabilities of `offensive`."""
        logits = self.head(image, text).double()
        return torch.sigmoid(self.calibration.slope * logits + self.calibration.offset)

    def forward(self, pixels: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
        """N outputs of `prepare_image` and `prepare_text` each -> (N,) float64 probabilities of `offensive`."""
        return self.probabilities(self.encode_images(pixels), self.encode_texts(tokens))

    def warm_up(self, most: int = 1) -> None:
        """Run on blank input, one meme and `most` memes: the first calls of a torch module are several times slower."""
        height, width = height_and_width(self._encoder.spec["preprocess"]["size"])
        blank, empty = torch.zeros(height, width, 3, dtype=torch.uint8), self.prepare_text("")
        for count in {1, most}:
            self([blank] * count, [empty] * count)


def exported_encoder(folder: Path, model: str | None, pretrained: str | None) -> Path | None:
    """The encoder folder of an exported bundle; None if there is none, or model or pretrained is given."""
    inside = folder / ENCODER
    return inside if model is None and pretrained is None and inside.is_dir() else None


def bundle_delta(folder: Path, config: dict[str, Any]) -> Path | None:
    """The file of a fine-tuned bundle's weight changes; None for a frozen encoder.

    Raises UnusableBundle if it is missing, damaged or of another bundle.
    """
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


def model_and_pretrained(config: dict[str, Any], model: str | None, pretrained: str | None) -> tuple[str, str]:
    """(model, pretrained) of open_clip: those given, else those of the bundle's config."""
    source = config["encoder"]
    return source["model"] if model is None else model, source["pretrained"] if pretrained is None else pretrained
