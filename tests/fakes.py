"""Small stand-ins for the tests: a data set drawn on the spot, and an encoder without a network."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from embed.pictures import decode_picture
from head.data import Features


def picture(seed: int = 0, size: tuple[int, int] = (24, 16), mode: str = "RGB", format: str = "PNG") -> bytes:
    """An image file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


def write_multioff(folder: Path, rows: Sequence[tuple[str, str, str]], table: str = "Training") -> Path:
    """Write rows of (image_name, sentence, label) in the MultiOFF layout, with a picture for each new name."""
    (folder / "Labelled Images").mkdir(parents=True, exist_ok=True)
    (folder / "Split Dataset").mkdir(exist_ok=True)
    with (folder / "Split Dataset" / f"{table}_meme_dataset.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_name", "sentence", "label"])
        writer.writerows(rows)
    for name, _, _ in rows:
        path = folder / "Labelled Images" / name
        if not path.exists():
            path.write_bytes(picture(int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)))
    return folder


def memes(count: int) -> list[tuple[str, str, str]]:
    """Rows for `write_multioff`, both labels in turn."""
    return [(f"m{i}.png", f"text {i}", ("offensive", "Non-offensiv")[i % 2]) for i in range(count)]


def planted_features(
    count: int,
    seed: int = 0,
    kind: str = "sum",
    splits: Sequence[str] = ("train", "train", "train", "validation"),
    dims: tuple[int, int] = (8, 6),
) -> Features:
    """Memes that are offensive where the "sum" of a number of the image and one of the text is above 0, or the sum of
    two "product"s of such numbers, or by chance ("none"); the splits in turn, no copies, no subgroups."""
    rng = np.random.default_rng(seed)
    image, text = (rng.normal(size=(count, dim)).astype(np.float32) for dim in dims)
    score = {
        "sum": image[:, 0] + text[:, 0],
        "product": (image[:, :2] * text[:, :2]).sum(axis=1),
        "none": rng.normal(size=count),
    }[kind]
    ids, split = np.array([f"m{row}" for row in range(count)]), np.resize(np.array(splits), count)
    return Features(ids, image, text, (score > 0).astype(np.int64), split, np.arange(count), np.full(count, ""))


def interrupted(function: Callable[..., Any], at: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """`function`, but Ctrl-C in its call number `at`; and the list of all calls' arguments."""
    calls: list[tuple[Any, ...]] = []

    def wrapped(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped, calls


@dataclass
class FakeEncoder:
    """As `embed.encoder.ClipEncoder`: 4 x 4 thumbnails and letter counts for vectors."""

    weights: Path
    on_encode: Callable[[], None] = lambda: None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    spec: dict[str, Any] = field(
        default_factory=lambda: {
            "model": "fake",
            "tokenizer": {"context_length": 8, "truncation": "first tokens, end token kept"},
            "feature": "projected",
            "dtype": "float32",
        }
    )
    encoded: list[int] = field(default_factory=list)

    def pixels(self, data: bytes) -> torch.Tensor:
        return torch.tensor(np.asarray(decode_picture(data).convert("RGB").resize((4, 4))))

    def tokens(self, text: str) -> torch.Tensor:
        return torch.tensor([[len(text), sum(map(ord, text))]])

    def token_count(self, text: str) -> int:
        return len(text.split()) + 2

    def batch_size(self, kind: str) -> int:
        return 8

    def image_features(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._encoded(torch.stack(list(pixels)).flatten(1))

    def text_features(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._encoded(torch.cat(list(tokens)))

    def _encoded(self, rows: torch.Tensor) -> torch.Tensor:
        self.on_encode()
        self.encoded.append(len(rows))
        return rows.float()
