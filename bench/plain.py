"""Peer (a) of `bench.embed`: open_clip as in its README, with torch's DataLoader; or another runtime.

    python -m bench.plain FOLDER WEIGHTS OUT.npz --workers N [--no-images | --no-texts] [--runtime NAME]

Embeds a folder that `bench.cases` wrote and prints {"seconds"} of the loop, without loading the model. It uses none of
the job's code.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench import runtimes
from bench.cases import Row, read_rows
from bench.weights import MODEL

_BATCH = 32


class _Memes(Dataset):
    def __init__(
        self,
        rows: list[Row],
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        images: bool,
        texts: bool,
    ) -> None:
        self._rows, self._preprocess, self._tokenizer = rows, preprocess, tokenizer
        self._images, self._texts = images, texts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        row, nothing = self._rows[number], torch.empty(0)
        image = self._preprocess(Image.open(row.picture)) if self._images else nothing
        return image, self._tokenizer([row.text])[0] if self._texts else nothing


def main() -> None:
    """Embed a folder, write the vectors, print the time."""
    args = _parser().parse_args()
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, pretrained=str(args.weights))
    encode: dict[str, Callable[[Tensor], Tensor]] = {"image": model.eval().encode_image, "text": model.encode_text}
    if args.runtime:
        encode = runtimes.load(args.runtime, args.dtype, args.weights)
    tokenizer = open_clip.get_tokenizer(MODEL)
    memes = _Memes(read_rows(args.folder), preprocess, tokenizer, args.images, args.texts)
    started = time.perf_counter()
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for images, texts in DataLoader(memes, batch_size=_BATCH, num_workers=args.workers):
            if args.images:
                sides[0].append(encode["image"](images))
            if args.texts:
                sides[1].append(encode["text"](texts))
    vectors = {name: torch.cat(side).numpy() for name, side in zip(("image", "text"), sides) if side}
    seconds = time.perf_counter() - started
    np.savez(args.out, allow_pickle=False, **vectors)
    print(json.dumps({"seconds": seconds}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.plain", description="open_clip in a plain loop.")
    parser.add_argument("folder", type=Path, help="a folder that bench.cases wrote")
    parser.add_argument("weights", type=Path, help="a checkpoint of bench.weights' model")
    parser.add_argument("out", type=Path, help="where the vectors go, as .npz")
    parser.add_argument("--workers", type=int, default=0, help="the DataLoader's (default: %(default)s)")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), help="of `bench.runtimes`, instead of torch")
    parser.add_argument("--dtype", default="float32", help="of the runtime's products (default: %(default)s)")
    parser.add_argument("--no-images", dest="images", action="store_false", help="encode no picture")
    parser.add_argument("--no-texts", dest="texts", action="store_false", help="encode no text")
    return parser


if __name__ == "__main__":
    main()
