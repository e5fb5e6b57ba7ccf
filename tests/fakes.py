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

from cache import DatasetIndex, DatasetRequest, Layout, Segment, VectorStore, content_key, text_key, write_index
from embed.pictures.decoding import decode_picture
from head.data.features import Features

SPEC = {"model": "fake", "dim": 8}


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
    """As `embed.clip.encoder.ClipEncoder`: 4 x 4 thumbnails and letter counts for vectors."""

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


def planted_features(
    count: int,
    seed: int = 0,
    kind: str = "sum",
    splits: Sequence[str] = ("train", "train", "validation"),
    dims: tuple[int, int] = (8, 6),
) -> Features:
    """Memes of random vectors whose label follows from the first number of both sides: their "sum", their "product", or
    "none" of it. splits are dealt out in turn; no meme is a copy of another; sides of equal width share a space."""
    generator = np.random.default_rng(seed)
    image, text = (generator.normal(size=(count, dim)).astype(np.float32) for dim in dims)
    signal = {"sum": image[:, 0] + text[:, 0], "product": image[:, 0] * text[:, 0], "none": np.zeros(count)}[kind]
    label = (generator.random(count) < 1 / (1 + np.exp(-4 * signal))).astype(np.int64)
    split = np.array([splits[row % len(splits)] for row in range(count)])
    ids = np.array([f"m{row}" for row in range(count)])
    joint = dims[0] if dims[0] == dims[1] else 0
    return Features(ids, image, text, label, split, np.arange(count), np.full(count, ""), joint)


def write_features(artifacts: Path, features: Features, **more: Any) -> Path:
    """Leave an index and vectors as `make embed --data data --model fake` does; the index's path. Test memes have
    segments of their own. more: columns of the index that are to be other than usual."""
    count, store = len(features), VectorStore(artifacts / "vectors", more.get("spec", SPEC))
    texts = [f"text {name}" for name in features.ids]
    columns: dict[str, Any] = {
        "ids": features.ids.tolist(),
        "splits": features.split.tolist(),
        "labels": features.label.tolist(),
        "images": [f"{name}.png" for name in features.ids],
        "texts": texts,
        "image_keys": [content_key(name.encode()) for name in features.ids],
        "text_keys": [text_key(text) for text in texts],
        "skipped": [""] * count,
        "text_tokens": [3] * count,
        "text_cut": [0] * count,
        "image_stamps": [""] * count,
        "groups": features.subgroup.tolist(),
        "spec": SPEC,
        "source": {"data": "data", "model": "fake", "pretrained": ""},
        **more,
    }
    for rows in (np.flatnonzero(features.split != "test"), np.flatnonzero(features.split == "test")):
        for kind, vectors in (("image", features.image), ("text", features.text)):
            if len(rows):
                keys = [columns[f"{kind}_keys"][row] for row in rows]
                store.add(kind, Segment(keys, vectors[rows], np.zeros(len(rows), np.int32)))
    path = Layout(artifacts).index(DatasetRequest("data", "fake"))
    write_index(path, DatasetIndex(**columns))
    return path
