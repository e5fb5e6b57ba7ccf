"""The prompts of zero-shot CLIP: what a picture is compared with where nothing is trained.

CLIP tells classes apart by the mean vector of several sentences about each, which does better than a single one
("prompt ensembling": Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
section 3.1.4). `python -m embed` embeds them beside the memes' texts; this table does not know who compares.

The two lists go in step, sentence for sentence, so that the classes differ in what is said of the meme and not in how.
None says "not": CLIP reads much as from a bag of words (Yuksekgonul et al. 2023), so the harmless class is described
by what it is. No group and no slur is named, for a picture's likeness to one would count as offence.
"""

PROMPTS: dict[str, tuple[str, ...]] = {
    "offensive": (
        "a meme that is offensive.",
        "a hateful meme.",
        "a cruel meme.",
        "a meme that insults someone.",
        "a meme that mocks a group of people.",
        "a meme that spreads hate.",
        "a picture with offensive words on it.",
    ),
    "non-offensive": (
        "a meme that is harmless.",
        "a friendly meme.",
        "a kind meme.",
        "a meme that cheers someone up.",
        "a meme that amuses a group of people.",
        "a meme that spreads joy.",
        "a picture with harmless words on it.",
    ),
}
