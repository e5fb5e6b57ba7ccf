"""What is remembered: the right vector under each key, the least recently used forgotten."""

import torch

from api.metrics import Metrics
from api.model.kept_vectors import Remembered


def vector(number: float) -> torch.Tensor:
    return torch.full((3,), number)


def test_the_least_recently_used_is_forgotten_and_its_row_taken_by_the_next() -> None:
    remembered = Remembered(2, Metrics())
    remembered.put("image", "a", vector(1))
    remembered.put("image", "b", vector(2))
    first = remembered.get("image", "a")
    for number, key in enumerate("cdefg", 3):
        remembered.put("image", key, vector(number))
    assert [remembered.peek("image", key) for key in "abcde"] == [None] * 5
    assert torch.equal(remembered.peek("image", "f"), vector(6)) and torch.equal(
        remembered.peek("image", "g"), vector(7)
    )
    assert torch.equal(first, vector(1)), "what was handed out does not change when its row is taken"


def test_kinds_are_apart_and_a_size_of_nothing_keeps_nothing() -> None:
    remembered, none = Remembered(2, Metrics()), Remembered(0, Metrics())
    for each in (remembered, none):
        each.put("image", "a", vector(1))
        each.put("text", "a", torch.zeros(5))
        each.put("ocr", "a", "words")
    assert [remembered.peek(kind, "a").shape for kind in ("image", "text")] == [(3,), (5,)]
    assert remembered.peek("ocr", "a") == "words"
    assert [none.peek(kind, "a") for kind in ("image", "text", "ocr")] == [None] * 3
