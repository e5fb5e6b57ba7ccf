"""Draw the demo data set: memes in MultiOFF's layout whose label depends on picture and sentence.

Writes `Labelled Images/` and `Split Dataset/{Training,Validation,Testing}_meme_dataset.csv` with the columns
`image_name,sentence,label`. `demo.plan` decides the labels. The same seed gives the same pixels with the same Pillow.
Takes some seconds.

    python -m demo.draw [--out demo/memes] [--seed N]
"""

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from demo.plan import FileKind, PlannedMeme, plan_memes
from demo.scenes import Style, draw_picture, write_caption

# JPEG and WebP quality: flat drawings compress well, and the folder is in the repository.
_QUALITY = 60
_QUALITY_AGAIN = 45


def draw_meme(meme: PlannedMeme) -> Image.Image:
    """The finished picture of one planned meme, in the mode its file has ("RGB", "RGBA", "P" or "L")."""
    style = Style(meme.size, meme.pattern)
    picture = draw_picture(meme.subject, meme.background, style, random.Random(meme.picture_seed))
    image = write_caption(picture, meme.sentence, meme.layout)
    if meme.kind == "rgba png":
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), 16, fill=255)
        image.putalpha(mask)
    elif meme.kind == "palette png":
        image = image.quantize(64)
    elif meme.kind == "grey jpeg":
        image = image.convert("L")
    elif meme.kind == "again":
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4))
    return image


def write_data_set(memes: Sequence[PlannedMeme], out: Path) -> None:
    """Draw `memes` into the folder `out`. Raises `FileExistsError` when pictures are there already."""
    images, tables = out / "Labelled Images", out / "Split Dataset"
    images.mkdir(parents=True)  # fails on a second run, which would mix the pictures of two seeds
    tables.mkdir(exist_ok=True)
    for meme in tqdm(memes, desc="memes", unit="meme"):
        _save(draw_meme(meme), images / meme.image_name, meme.kind)
    for split in dict.fromkeys(meme.split for meme in memes):
        with (tables / f"{split}_meme_dataset.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image_name", "sentence", "label"))
            writer.writerows((meme.image_name, meme.sentence, meme.label) for meme in memes if meme.split == split)


def _save(image: Image.Image, path: Path, kind: FileKind) -> None:
    if kind in ("png", "rgba png", "palette png"):
        image.save(path, format="PNG", optimize=True)
    elif kind == "webp":
        image.save(path, format="WEBP", quality=_QUALITY)
    else:
        image.save(path, format="JPEG", quality=_QUALITY_AGAIN if kind == "again" else _QUALITY, optimize=True)


def main() -> None:
    """Read the flags, draw, and print what was written."""
    parser = argparse.ArgumentParser(prog="python -m demo.draw", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo/memes"), help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20, help="of the data set (default: %(default)s)")
    args = parser.parse_args()
    memes = plan_memes(args.seed)
    try:
        write_data_set(memes, args.out)
    except FileExistsError as error:
        parser.error(f"{error.filename} already exists; remove it, or give another --out")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{len(memes)} memes, {size / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
