"""The cache of embeddings and OCR texts."""

import torch

from api.metrics import Metrics
from api.model.embedding_cache import EmbeddingCache


def vector(number: float) -> torch.Tensor:
    return torch.full((3,), number)


def test_the_least_recently_used_is_evicted_and_its_row_reused() -> None:
    embedding_cache = EmbeddingCache(2, Metrics())
    embedding_cache.put("image", "a", vector(1))
    embedding_cache.put("image", "b", vector(2))
    first = embedding_cache.get("image", "a")
    for number, key in enumerate("cdefg", 3):
        embedding_cache.put("image", key, vector(number))
    assert [embedding_cache.peek("image", key) for key in "abcde"] == [None] * 5
    assert torch.equal(embedding_cache.peek("image", "f"), vector(6)) and torch.equal(
        embedding_cache.peek("image", "g"), vector(7)
    )
    assert torch.equal(first, vector(1)), "what was handed out does not change when its row is taken"


def test_kinds_are_separate_and_size_0_keeps_nothing() -> None:
    embedding_cache, none = EmbeddingCache(2, Metrics()), EmbeddingCache(0, Metrics())
    for each in (embedding_cache, none):
        each.put("image", "a", vector(1))
        each.put("text", "a", torch.zeros(5))
        each.put("ocr", "a", "words")
    assert [embedding_cache.peek(kind, "a").shape for kind in ("image", "text")] == [(3,), (5,)]
    assert embedding_cache.peek("ocr", "a") == "words"
    assert [none.peek(kind, "a") for kind in ("image", "text", "ocr")] == [None] * 3
