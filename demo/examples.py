"""Two of the demo's test memes, one of each label, for `make demo` and `make image-check`."""

import csv
from dataclasses import dataclass
from pathlib import Path

_MEMES = Path("demo/memes")


@dataclass(frozen=True)
class Example:
    """A meme of the demo. label: as its table spells it."""

    picture: Path
    text: str
    label: str


def pair() -> list[Example]:
    """The first offensive and the first harmless meme of the test split."""
    with (_MEMES / "Split Dataset" / "Testing_meme_dataset.csv").open(encoding="utf-8", newline="") as file:
        memes = [
            Example(_MEMES / "Labelled Images" / row["image_name"], row["sentence"], row["label"])
            for row in csv.DictReader(file)
        ]
    return [next(meme for meme in memes if (meme.label == "offensive") is wanted) for wanted in (True, False)]
