"""Generate the sentences on the memes, which affirm or deny a likeness; used by `demo.plan`."""

import random
from typing import Literal

Stance = Literal["affirm", "deny"]

PEOPLE = (
    "you", "my sister", "my brother", "my teacher", "my boss", "my cousin", "my neighbour", "my best friend",
    "our coach", "our landlord", "the new intern", "the plumber", "uncle bob", "aunt mary", "grandpa", "grandma",
    "the whole team", "the mayor", "my roommate", "our bus driver", "the barber", "my dentist",
)  # fmt: skip

OCCASIONS = (
    "", "", "", "on monday", "at breakfast", "after school", "every morning", "before coffee", "at the party",
    "in the office", "on holiday", "at lunch", "last summer", "on the bus", "after the game", "in every photo",
)  # fmt: skip

_TEMPLATES: dict[Stance, tuple[str, ...]] = {
    "affirm": (
        "{who} looking just like this {when}",
        "this reminds me so much of {who} {when}",
        "found the portrait of {who} {when}",
        "this is exactly {who} {when}",
        "a perfect likeness of {who} {when}",
        "same thing as {who} {when}",
        "i see this and always think of {who} {when}",
        "everybody would compare this to {who} {when}",
        "a true picture of {who} {when}",
        "{who} and this are twins {when}",
        "it looks very similar to {who} {when}",
        "yes this really is {who} {when}",
    ),
    "deny": (
        "{who} looking nothing like this {when}",
        "this never reminds me of {who} {when}",
        "the exact opposite of {who} {when}",
        "this is not {who} {when}",
        "no likeness at all to {who} {when}",
        "anything but {who} {when}",
        "i see this and never think of {who} {when}",
        "nobody would compare this to {who} {when}",
        "far from a portrait of {who} {when}",
        "{who} and this are not alike {when}",
        "it hardly looks similar to {who} {when}",
        "no this could not be {who} {when}",
    ),
}


def write_sentences(stance: Stance, count: int, rng: random.Random) -> list[str]:
    """`count` distinct sentences of one stance, with all templates equally often (up to one).

    Raises `ValueError` if `count` is more than half of the possible sentences.
    """
    templates = _TEMPLATES[stance]
    possible = len(templates) * len(PEOPLE) * len(set(OCCASIONS))
    if count > possible // 2:  # rejection sampling is slow near the limit
        raise ValueError(f"at most {possible // 2} sentences that {stance} can be written, {count} were asked for")
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        filled = templates[len(sentences) % len(templates)].format(who=rng.choice(PEOPLE), when=rng.choice(OCCASIONS))
        sentences.setdefault(filled.strip())
    shuffled = list(sentences)
    rng.shuffle(shuffled)
    return shuffled
