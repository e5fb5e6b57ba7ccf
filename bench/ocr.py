"""Character error and time of OCR on memes: our reader, stock RapidOCR, and tesseract.

    python -m bench.ocr --data FOLDER --memes 60

Results are compared with the data set's own texts. All engines get the same decoded picture on white, one after the
other. Error: edits (Levenshtein, 1966) over the references' length, pooled over all memes:

    exact      as written, runs of spaces as one
    words      lower case, letters and digits only, words separated by one space
    letters    the same without spaces: the difference to `words` is joined or split words

tesseract runs once per picture on a PNG, as from a shell; if it is not installed, it is left out.
"""

import argparse
import io
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.machine import describe, print_json, say
from cache import cores
from embed.data.dataset import read_dataset
from embed.data.memes import Meme
from embed.ocr.reader import TextReader
from embed.pictures.decoding import decode_picture, in_rgb

_NORMAL: dict[str, Callable[[str], str]] = {
    "exact": lambda text: " ".join(text.split()),
    "words": lambda text: " ".join(re.findall(r"[^\W_]+", text.lower())),
    "letters": lambda text: "".join(re.findall(r"[^\W_]+", text.lower())),
}
Engine = Callable[[bytes], str]


def main() -> int:
    """Read the sample with every engine; print the table and the JSON line."""
    args = _parser().parse_args()
    machine = describe()
    root, memes = _sample(Path(args.data), args.memes, args.seed)
    started = time.perf_counter()
    reader = TextReader(cores())
    loading = time.perf_counter() - started
    engines: dict[str, Engine] = {"ours": reader.read, "rapidocr as it comes": _stock(), **_tesseracts()}
    results = {}
    for name, read in engines.items():
        say(f"{name}: {len(memes)} memes")
        results[name] = _measure(read, root, memes)
    print(_table(results))
    print_json(
        {
            "benchmark": "ocr",
            "data": args.data,
            "memes": len(memes),
            "seed": args.seed,
            "engine": reader.engine,
            "threads": cores(),
            "loading_s": round(loading, 2),
            "machine": machine,
            "results": results,
        }
    )
    return 0


def edits(reference: str, read: str) -> int:
    """Levenshtein distance: the minimum number of character insertions, deletions and substitutions."""
    ours, theirs = (np.array([ord(c) for c in text], np.int64) for text in (reference, read))
    steps = np.arange(len(theirs) + 1)
    row = steps
    for place, character in enumerate(ours, start=1):
        # deletion or substitution; then insertions, as a running minimum along the row
        best = np.concatenate([[place], np.minimum(row[1:] + 1, row[:-1] + (theirs != character))])
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def errors(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """{"exact" | "words" | "letters": pooled character error} of (reference, read) texts."""
    return {
        name: round(sum(edits(normal(a), normal(b)) for a, b in pairs) / sum(len(normal(a)) for a, _ in pairs), 4)
        for name, normal in _NORMAL.items()
    }


def _sample(data: Path, count: int, seed: int) -> tuple[Path, list[Meme]]:
    root, memes = read_dataset(data)
    # a text without letters and digits cannot be compared
    usable = [meme for meme in memes if not meme.problem and _NORMAL["letters"](meme.text)]
    return root, random.Random(seed).sample(usable, min(count, len(usable)))


def _measure(read: Engine, root: Path, memes: list[Meme]) -> dict[str, Any]:
    pairs, seconds = [], []
    for meme in memes:
        data = (root / meme.image).read_bytes()
        started = time.perf_counter()
        words = read(data)
        seconds.append(time.perf_counter() - started)
        pairs.append((meme.text, words))
    median, p90 = (round(1000 * float(np.quantile(seconds, q))) for q in (0.5, 0.9))
    return {"error": errors(pairs), "median_ms": median, "p90_ms": p90}


def _stock() -> Engine:
    """RapidOCR with default settings, without its warnings about empty pictures."""
    from rapidocr import RapidOCR
    from rapidocr.utils.output import RapidOCROutput

    engine = RapidOCR(params={"Global.log_level": "error"})
    engine(np.zeros((64, 64, 3), np.uint8))

    def read(data: bytes) -> str:
        found = engine(np.ascontiguousarray(np.asarray(_page(data))[:, :, ::-1]))
        assert isinstance(found, RapidOCROutput)  # by default it detects and recognises
        return " ".join(found.txts or ())

    return read


def _tesseracts() -> dict[str, Engine]:
    """tesseract by default, and in sparse-text mode."""
    program = shutil.which("tesseract")
    if program is None:
        say("tesseract is not installed; it is left out")
        return {}

    def reader(mode: str) -> Engine:
        def read(data: bytes) -> str:
            png = io.BytesIO()
            _page(data).save(png, "PNG", compress_level=1)
            command = [program, "stdin", "stdout", "-l", "eng", "--psm", mode]
            done = subprocess.run(command, input=png.getvalue(), capture_output=True, check=True)
            return done.stdout.decode("utf-8", "replace")

        return read

    return {"tesseract": reader("3"), "tesseract, sparse text": reader("11")}


def _page(data: bytes) -> Image.Image:
    return in_rgb(decode_picture(data))


def _table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'character error':24}{'exact':>9}{'words':>9}{'letters':>9}{'median ms':>11}{'p90 ms':>8}"]
    for name, result in results.items():
        cells = "".join(f"{error:9.1%}" for error in result["error"].values())
        lines.append(f"{name:24}{cells}{result['median_ms']:11}{result['p90_ms']:8}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ocr", description="Character error and time of OCR on memes."
    )
    parser.add_argument("--data", default="demo/memes", help="memes with their texts (default: %(default)s)")
    parser.add_argument("--memes", type=int, default=60, help="size of the random sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
