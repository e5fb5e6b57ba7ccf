"""Prompts of the zero-shot CLIP baseline, by class.

A class is represented by the mean vector of several prompts, which is more accurate than one ("prompt ensembling":
Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4).

The two lists are parallel, so that the classes differ in content and not in wording. None says "not", since CLIP reads
text much like a bag of words (Yuksekgonul et al. 2023). None names a group or a slur, since similarity to it would
count as offensive.
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
