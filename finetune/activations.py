"""Cache of the frozen encoder blocks' outputs: computed once per picture and text, kept in memory, then on disk.

Works on files, keys and the encoder; labels and heads are not its concern.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cache import DatasetIndex, content_key, cores
from embed.clip.unfrozen import UnfrozenEncoder
from embed.pictures.hashing import read_picture

# The most of the free disk space that is used.
_FREE_SHARE = 0.5
# Pictures and texts per forward pass: enough to keep the cores busy, few enough for a progress bar.
_BATCH = 16


class ChangedPicture(ValueError):
    """A picture differs from the one that was embedded."""


@dataclass(frozen=True)
class Limits:
    """Bytes of activations to keep. ViT-L/14 makes 1.3 MB per meme in float32, 2.6 MB at 336 pixels: 26 GB for 10,000 memes."""

    memory: int = 4 << 30  # half the memory of a small machine
    disk: int = 64 << 30  # and at most half of what is free there


class ActivationCache:
    """Vectors of an index's memes with the encoder as it is now, by rows; the frozen blocks' outputs are cached."""

    def __init__(
        self, encoder: UnfrozenEncoder, index: DatasetIndex, root: Path, folder: Path, limits: Limits = Limits()
    ) -> None:
        """root: the folder of the pictures; folder: for the unnamed file of what exceeds the memory limit, which is freed with
        the process."""
        self._encoder = encoder
        self._image_keys, self._text_keys = index.image_keys, index.text_keys
        self._paths = {key: root / image for key, image in zip(index.image_keys, index.images)}
        self._texts = dict(zip(index.text_keys, index.texts))
        self._tokens: dict[str, Tensor] = {}
        self._free = limits.memory
        self._in_memory: dict[str, Tensor] = {}
        self._on_disk = _DiskStore(folder, limits.disk)

    def fill(self, rows: np.ndarray) -> None:
        """Cache these rows' activations until both limits are reached."""
        with tqdm(total=len(rows), desc="frozen blocks", unit=" memes") as bar:
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                self._image_activations(part)
                self._text_activations(part)
                bar.update(len(part))
                if self._free <= 0 and self._on_disk.full:
                    break

    def features(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The vectors of N rows of the index, (N, Di) and (N, Dt) float32 on the encoder's device, with gradients."""
        images, texts = self._image_activations(rows), self._text_activations(rows)
        image = self._encoder.image_features(torch.stack([*images.values()]))
        text = self._encoder.text_features([*texts.values()], [self._tokens[key] for key in texts])
        return image[_places(images, self._image_keys, rows)], text[_places(texts, self._text_keys, rows)]

    def _image_activations(self, rows: np.ndarray) -> dict[str, Tensor]:
        def begin(keys: list[str]) -> list[Tensor]:
            with ThreadPoolExecutor(cores()) as pool:
                return [*self._encoder.begin_images([*pool.map(self._pixels, keys)])]

        return self._activations([self._image_keys[row] for row in rows], begin)

    def _text_activations(self, rows: np.ndarray) -> dict[str, Tensor]:
        keys = [self._text_keys[row] for row in rows]
        for key in set(keys) - self._tokens.keys():
            self._tokens[key] = self._encoder.encoder.tokens(self._texts[key])
        return self._activations(keys, lambda some: self._encoder.begin_texts([self._tokens[key] for key in some]))

    def _activations(self, keys: list[str], begin: Callable[[list[str]], list[Tensor]]) -> dict[str, Tensor]:
        """{key: output of the frozen blocks} of the distinct keys, in order, on the encoder's device."""
        distinct = list(dict.fromkeys(keys))
        cached = {key: self._read(key) for key in distinct}
        missing = [key for key, value in cached.items() if value is None]
        made = dict(zip(missing, begin(missing))) if missing else {}
        for key, value in made.items():
            self._write(key, value)
        device = self._encoder.encoder.device
        return {key: (made[key] if value is None else value).to(device) for key, value in cached.items()}

    def _read(self, key: str) -> Tensor | None:
        return self._in_memory[key] if key in self._in_memory else self._on_disk.read(key)

    def _write(self, key: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._free:
            self._in_memory[key] = value.to("cpu", copy=True)  # not a view that holds its whole batch
            self._free -= size
        else:
            self._free = min(self._free, 0)
            self._on_disk.write(key, value)

    def _pixels(self, key: str) -> Tensor:
        data = read_picture(self._paths[key])
        if content_key(data) != key:
            raise ChangedPicture(f"{self._paths[key]}: changed while it was trained on; run `make embed` again")
        return self._encoder.encoder.pixels(data)


class _DiskStore:
    """Tensors by key in one unnamed file, up to a number of bytes."""

    def __init__(self, folder: Path, room: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)  # freed with the process, however that ends
        weakref.finalize(self, os.close, self._file)
        self._room = min(room, int(_FREE_SHARE * shutil.disk_usage(folder).free))
        self._places: dict[str, tuple[int, int, torch.dtype, torch.Size]] = {}
        self._end = 0
        self.full = self._room <= 0

    def write(self, key: str, value: Tensor) -> None:
        """Keep it, if there is room and the disk takes it."""
        data = value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        if self._end + len(data) > self._room:
            self.full = True
            return
        try:
            written = os.pwrite(self._file, data, self._end)
        except OSError:  # another process filled the disk: compute it each time
            self.full = True
            return
        if written == len(data):
            self._places[key] = self._end, len(data), value.dtype, value.shape
            self._end += len(data)

    def read(self, key: str) -> Tensor | None:
        """The tensor of the key, or None."""
        if key not in self._places:
            return None
        start, size, dtype, shape = self._places[key]
        data = os.pread(self._file, size, start)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).view(shape)


def _places(distinct: dict[str, Tensor], keys: Sequence[str], rows: np.ndarray) -> list[int]:
    place = {key: number for number, key in enumerate(distinct)}
    return [place[keys[row]] for row in rows]
