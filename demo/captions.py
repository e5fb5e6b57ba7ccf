"""Captions for pretraining pictures: the subject, and whether it is struck out.

Independent of the memes' sentences and labels. Used by `demo.pretrain`.
"""

import random

from demo.words import OCCASIONS, PEOPLE

LOOKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("rose", "sun", "cake", "crown", "star", "rainbow", "heart", "butterfly"),
        ("lovely", "beautiful", "sweet", "bright", "charming", "delightful", "pretty", "splendid"),
    ),
    **dict.fromkeys(
        ("skunk", "trash can", "snail", "storm cloud", "rotten apple", "smelly sock", "spider", "fish bone"),
        ("gloomy", "nasty", "smelly", "ugly", "dirty", "slimy", "creepy", "yucky"),
    ),
}
"""Adjectives of each subject."""

_PLAIN = (
    "{thing}", "this is {thing}", "just like {thing}", "a picture of {thing}", "a portrait of {thing}",
    "{who} looks just like {thing}", "it reminds {who} so much of {thing}", "found {thing}", "exactly {thing}",
    "a perfect likeness of {thing}", "the same as {thing}", "{who} always think of {thing}", "yes it is {thing}",
    "everybody would compare this to {thing}", "a true picture of {thing}", "{who} and {thing} are twins",
    "very similar to {thing}", "this really is {thing}", "i see {thing} {when}", "the same thing as {thing}",
    "{who} looking just like {thing}",
)  # fmt: skip

_CROSSED = (
    "no {thing}", "this is not {thing}", "nothing like {thing}", "not a picture of {thing}", "never {thing}",
    "{who} looks nothing like {thing}", "it never reminds {who} of {thing}", "no {thing} at all",
    "the exact opposite of {thing}", "the opposite of {thing}", "{who} never think of {thing}", "anything but {thing}",
    "nobody would compare this to {thing}", "far from {thing}", "{who} and {thing} are not alike",
    "no likeness to {thing}", "this could not be {thing}", "i hardly see {thing} {when}", "hardly similar to {thing}",
    "not a portrait of {thing}", "{who} looking nothing like {thing}",
)  # fmt: skip


def describe(subject: str, background: str, crossed: bool, rng: random.Random) -> str:
    """A random caption that names the subject, only describes it, or says just "this".

    Raises `KeyError` for an unknown subject.
    """
    look = rng.choice(LOOKS[subject])
    thing = rng.choices((f"a {subject}", f"a {look} {subject}", f"something {look}", "this"), weights=(2, 3, 3, 2))[0]
    if rng.random() < 0.2:
        thing += f" on {background}"
    template = rng.choice(_CROSSED if crossed else _PLAIN)
    caption = template.format(thing=thing, who=rng.choice(PEOPLE), when=rng.choice(OCCASIONS))
    if rng.random() < 0.3:
        caption += f" {rng.choice(OCCASIONS)}"
    return " ".join(caption.split())


def scribble(rng: random.Random) -> str:
    """3 to 11 random words to write on a pretraining picture, unrelated to its caption."""
    words = [word for word in " ".join((*_PLAIN, *_CROSSED, *PEOPLE, *OCCASIONS)).split() if not word.startswith("{")]
    return " ".join(rng.choices(words, k=rng.randint(3, 11)))
