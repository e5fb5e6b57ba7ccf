"""One module from picture and tokens to the probability of `offensive`, rebuilt from a bundle on disk.

    classifier = MemeClassifier.from_bundle(Path("artifacts/bundles/latest"), torch.device("cpu"))
    pixels, tokens = classifier.prepare(image_bytes, "the text on it")
    classifier([pixels], [tokens])   # -> tensor([0.87])

It goes through the same decoding, transform and tokenizer as the embedding job; it knows nothing of HTTP.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cache import require_same_spec
from embed.encoder import ClipEncoder, load_encoder
from embed.profile import Profile
from embed.text import clean_text
from head.bundle import Bundle, UnusableBundle, load_bundle


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
        self.threshold: float = bundle.config["threshold"]
        # probabilities from low to below high are left to a person; None where the bundle answers always
        band = bundle.config["review"]
        self.review: dict[str, float] | None = band and {end: band[end] for end in ("low", "high")}
        self._encoder = encoder
        self.eval()

    @classmethod
    def from_bundle(
        cls, folder: Path, device: torch.device, model: str | None = None, pretrained: str | None = None
    ) -> "MemeClassifier":
        """Rebuild from a bundle; `model` and `pretrained` say where its encoder is now, if it has moved.

        Raises UnusableBundle, EncoderUnavailable or SpecMismatch, each naming what to do.
        """
        bundle = load_bundle(folder)
        if "imported" in bundle.config["spec"]:
            raise UnusableBundle(
                f"{folder}: its head was tuned on imported vectors, and no encoder here makes such; tune on vectors of "
                "`make embed`, or on a file that `python -m cache export` wrote"
            )
        source = bundle.config["encoder"]
        encoder = load_encoder(
            source["model"] if model is None else model,
            source["pretrained"] if pretrained is None else pretrained,
            device,
            Profile.of_spec(bundle.config["spec"]),
        )
        return cls(encoder, bundle)

    def prepare(self, data: bytes, text: str) -> tuple[Tensor, Tensor]:
        """Image bytes and text -> pixels (H, W, 3) uint8 and token rows (P, L). Raises UnreadableImage."""
        return self._encoder.pixels(data), self._encoder.tokens(clean_text(text))

    @torch.inference_mode()
    def forward(self, pixels: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
        """N prepared pictures and N prepared texts -> (N,) float64 probabilities of `offensive`."""
        logits = self.head(self._encoder.image_features(pixels), self._encoder.text_features(tokens)).double()
        return torch.sigmoid(self.calibration.slope * logits + self.calibration.offset)

    def warm_up(self) -> None:
        """Run once on nothing in particular: the first call of a torch module is several times slower."""
        size = self._encoder.spec["preprocess"]["size"]
        height, width = (size, size) if isinstance(size, int) else size
        self([torch.zeros(height, width, 3, dtype=torch.uint8)], [self._encoder.tokens("")])
