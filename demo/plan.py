"""Plan the demo data set: pictures, sentences, labels and splits; used by `demo.draw`.

The rule: a meme is offensive when its sentence affirms a likeness to something nasty, or denies one to something nice.
Memes come in blocks of four (a nice and a nasty picture, each with an affirming and a denying sentence), and a block
stays in one split. So in each split every sentence, picture, subject, layout and file kind has both labels equally
often, and neither the picture nor the sentence alone predicts the label.
"""

import random
import string
from dataclasses import dataclass, replace
from typing import Literal

from demo.scenes import BACKGROUNDS, LAYOUTS, PATTERNS
from demo.words import Stance, write_sentences

Split = Literal["Training", "Validation", "Testing"]
FileKind = Literal["jpeg", "jpeg named png", "png", "rgba png", "palette png", "grey jpeg", "webp", "again"]

NICE = ("rose", "sun", "cake", "crown", "star", "rainbow", "heart", "butterfly")
NASTY = ("skunk", "trash can", "snail", "storm cloud", "rotten apple", "smelly sock", "spider", "fish bone")

OFFENSIVE = "offensive"
NON_OFFENSIVE = "Non-offensiv"  # sic: MultiOFF's own spelling

SIZES = ((224, 224), (240, 240), (256, 192), (192, 256), (280, 210), (208, 260))
ODD_SIZE = (225, 281)

_RARE_KINDS: tuple[FileKind, ...] = ("rgba png", "palette png", "grey jpeg", "webp")
# Two thirds of MultiOFF's `.png` files are JPEG data; real PNG files are large, so there are few.
_USUAL_KINDS: tuple[FileKind, ...] = ("jpeg",) * 9 + ("jpeg named png",) * 5 + ("png",)


@dataclass(frozen=True)
class Counts:
    """Blocks of four memes per split, and blocks saved a second time, smaller and under other names."""

    training: int = 98
    validation: int = 29
    testing: int = 50
    again_in_training: int = 2
    again_in_validation: int = 1  # a copy of a training block: the only leak, not into the test split

    def __post_init__(self) -> None:
        if min(self.training, self.validation, self.testing) < len(_RARE_KINDS) + 1:
            raise ValueError(f"each split needs at least {len(_RARE_KINDS) + 1} blocks, got {self}")
        if self.again_in_training + self.again_in_validation > self.training - len(_RARE_KINDS):
            raise ValueError(f"more copies than training blocks of the common file kinds in {self}")


@dataclass(frozen=True)
class PlannedMeme:
    """One meme before it is drawn. Memes with the same `picture_seed` show the same picture."""

    image_name: str
    sentence: str
    label: str
    split: Split
    subject: str
    background: str
    pattern: str
    size: tuple[int, int]
    layout: str
    kind: FileKind
    picture_seed: int
    copy_of: str | None = None


def plan_memes(seed: int, counts: Counts = Counts()) -> list[PlannedMeme]:
    """Every meme of the data set, in the order of its CSV files. The same seed gives the same plan."""
    rng = random.Random(seed)
    total = counts.training + counts.validation + counts.testing
    affirming, denying = (write_sentences(stance, total, rng) for stance in ("affirm", "deny"))
    blocks: dict[Split, list[list[PlannedMeme]]] = {"Training": [], "Validation": [], "Testing": []}
    for split, size in zip(blocks, (counts.training, counts.validation, counts.testing), strict=True):
        nasty = rng.sample(NASTY, len(NASTY))
        for i in range(size):
            # i // 8 shifts the partner each round, so that nice subjects change their nasty partners.
            subjects = NICE[i % len(NICE)], nasty[(i + i // len(NICE)) % len(NASTY)]
            sentences: dict[Stance, str] = {"affirm": affirming.pop(), "deny": denying.pop()}
            blocks[split].append(_plan_block(split, i, subjects, sentences, rng))
    common = blocks["Training"][len(_RARE_KINDS) :]
    copied = rng.sample(common, counts.again_in_training + counts.again_in_validation)
    for i, block in enumerate(copied):
        split = "Training" if i < counts.again_in_training else "Validation"
        blocks[split].append([_again(meme, split) for meme in block])
    memes = [meme for split in blocks for meme in _shuffled([m for block in blocks[split] for m in block], rng)]
    return _named(memes, rng)


def _plan_block(
    split: Split, index: int, subjects: tuple[str, str], sentences: dict[Stance, str], rng: random.Random
) -> list[PlannedMeme]:
    kind: FileKind = _RARE_KINDS[index] if index < len(_RARE_KINDS) else rng.choice(_USUAL_KINDS)
    size = ODD_SIZE if index == len(_RARE_KINDS) else rng.choice(SIZES)
    layout = rng.choice(LAYOUTS)
    block = []
    for subject in subjects:
        seed, background, pattern = rng.getrandbits(32), rng.choice(list(BACKGROUNDS)), rng.choice(PATTERNS)
        for stance, sentence in sentences.items():
            offensive = (stance == "affirm") == (subject in NASTY)
            label = OFFENSIVE if offensive else NON_OFFENSIVE
            # A placeholder name, unique within the plan; `_named` replaces it.
            name = f"{seed} {stance}"
            look = (subject, background, pattern, size, layout, kind, seed)
            block.append(PlannedMeme(name, sentence, label, split, *look))
    return block


def _again(meme: PlannedMeme, split: Split) -> PlannedMeme:
    return replace(meme, image_name=f"{meme.image_name} again", split=split, kind="again", copy_of=meme.image_name)


def _shuffled(memes: list[PlannedMeme], rng: random.Random) -> list[PlannedMeme]:
    return rng.sample(memes, len(memes))


def _named(memes: list[PlannedMeme], rng: random.Random) -> list[PlannedMeme]:
    names: dict[str, str] = {}
    taken: set[str] = set()
    for meme in memes:
        stem = "".join(rng.choices(string.ascii_letters + string.digits, k=7))
        assert stem.lower() not in taken  # some file systems ignore case
        taken.add(stem.lower())
        names[meme.image_name] = stem + _suffix(meme.kind)
    return [
        replace(meme, image_name=names[meme.image_name], copy_of=meme.copy_of and names[meme.copy_of]) for meme in memes
    ]


def _suffix(kind: FileKind) -> str:
    if kind == "webp":
        return ".webp"
    return ".png" if "png" in kind else ".jpg"
