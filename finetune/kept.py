"""Memes for a training: what the frozen part of the encoder makes of each is computed once and kept while there is room, in
memory first and then on disk.

It knows files, keys and the encoder; no labels and no heads. `python -m finetune` trains on what it gives.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cache import DatasetIndex, content_key, cores
from embed.clip.unfrozen import UnfrozenEncoder
from embed.pictures.hashing import read_picture

# Half the memory of a small machine; of a meme, ViT-L/14 makes 1.3 MB in float32, at 336 pixels 2.6 MB: 26 GB of 10,000.
_ROOM = 4 << 30
# On disk, and at most half of what is free there.
_DISK, _FREE_SHARE = 64 << 30, 0.5
# Pictures and texts that are begun together: enough to keep the cores busy, few enough for a progress bar.
_AT_ONCE = 16


class ChangedPicture(ValueError):
    """A picture is no longer the one that was embedded."""


class Memes:
    """The memes of an index by their rows, with their vectors as the encoder makes them now."""

    def __init__(
        self,
        encoder: UnfrozenEncoder,
        index: DatasetIndex,
        root: Path,
        folder: Path,
        room: int = _ROOM,
        disk: int = _DISK,
    ) -> None:
        """root: the folder of the pictures; folder: where what has no room in memory is kept, in a file without a name that
        ends with the process; room, disk: bytes of what is kept in either."""
        self._encoder = encoder
        self._image_keys, self._text_keys = index.image_keys, index.text_keys
        self._paths = {key: root / image for key, image in zip(index.image_keys, index.images)}
        self._texts = dict(zip(index.text_keys, index.texts))
        self._tokens: dict[str, Tensor] = {}
        self._left = room
        self._kept: dict[str, Tensor] = {}
        self._spilled = _Spilled(folder, disk)

    def fill(self, rows: np.ndarray) -> None:
        """Begin memes and keep them, until there is no more room."""
        with tqdm(total=len(rows), desc="frozen blocks", unit=" memes") as bar:
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                self._begun_images(part)
                self._begun_texts(part)
                bar.update(len(part))
                if self._left <= 0 and self._spilled.full:
                    break

    def features(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The vectors of N rows of the index, (N, Di) and (N, Dt) float32 on the encoder's device, with gradients."""
        images, texts = self._begun_images(rows), self._begun_texts(rows)
        image = self._encoder.image_features(torch.stack([*images.values()]))
        text = self._encoder.text_features([*texts.values()], [self._tokens[key] for key in texts])
        return image[_places(images, self._image_keys, rows)], text[_places(texts, self._text_keys, rows)]

    def _begun_images(self, rows: np.ndarray) -> dict[str, Tensor]:
        def begin(keys: list[str]) -> list[Tensor]:
            with ThreadPoolExecutor(cores()) as pool:
                return [*self._encoder.begin_images([*pool.map(self._pixels, keys)])]

        return self._begun([self._image_keys[row] for row in rows], begin)

    def _begun_texts(self, rows: np.ndarray) -> dict[str, Tensor]:
        keys = [self._text_keys[row] for row in rows]
        for key in set(keys) - self._tokens.keys():
            self._tokens[key] = self._encoder.encoder.tokens(self._texts[key])
        return self._begun(keys, lambda some: self._encoder.begin_texts([self._tokens[key] for key in some]))

    def _begun(self, keys: list[str], begin: Callable[[list[str]], list[Tensor]]) -> dict[str, Tensor]:
        """{key: what the frozen part makes of it} of distinct keys, in their order, on the encoder's device."""
        distinct = list(dict.fromkeys(keys))
        known = {key: self._known(key) for key in distinct}
        missing = [key for key, value in known.items() if value is None]
        made = dict(zip(missing, begin(missing))) if missing else {}
        for key, value in made.items():
            self._keep(key, value)
        device = self._encoder.encoder.device
        return {key: (made[key] if value is None else value).to(device) for key, value in known.items()}

    def _known(self, key: str) -> Tensor | None:
        return self._kept[key] if key in self._kept else self._spilled.read(key)

    def _keep(self, key: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._left:
            self._kept[key] = value.to("cpu", copy=True)  # not a view that holds its whole batch
            self._left -= size
        else:
            self._left = min(self._left, 0)
            self._spilled.write(key, value)

    def _pixels(self, key: str) -> Tensor:
        data = read_picture(self._paths[key])
        if content_key(data) != key:
            raise ChangedPicture(f"{self._paths[key]}: changed while it was trained on; run `make embed` again")
        return self._encoder.encoder.pixels(data)


class _Spilled:
    """Tensors in one file on disk, by key, up to a number of bytes."""

    def __init__(self, folder: Path, room: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)  # so that it ends with the process, however that ends
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
        except OSError:  # somebody else filled the disk: it is made anew each time
            self.full = True
            return
        if written == len(data):
            self._places[key] = self._end, len(data), value.dtype, value.shape
            self._end += len(data)

    def read(self, key: str) -> Tensor | None:
        """What was kept under the key, or None."""
        if key not in self._places:
            return None
        start, size, dtype, shape = self._places[key]
        data = os.pread(self._file, size, start)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).view(shape)


def _places(distinct: dict[str, Tensor], keys: Sequence[str], rows: np.ndarray) -> list[int]:
    place = {key: number for number, key in enumerate(distinct)}
    return [place[keys[row]] for row in rows]
