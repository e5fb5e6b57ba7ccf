"""Filling a store in batches; the GPU path runs with fakes, since no test needs a GPU."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache import VectorStore, text_key
from embed.engines.fill import Prepared, TooLittleMemory, fill

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPEC = {"model": "fake"}


def prepare(key: str, item: int) -> Prepared:
    if item < 0:
        return Prepared(key, None, failure="negative")
    return Prepared(key, torch.tensor([float(item), 1.0]), tokens=item)


class Gpu:
    """An encoder with room for `room` items at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        self.threads.add(threading.get_ident())
        if len(tensors) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(tensors))
        return torch.stack(list(tensors))


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return VectorStore(tmp_path, SPEC)


def todo(count: int) -> dict[str, int]:
    return {text_key(str(n)): n for n in range(count)}


def check(store: VectorStore, items: dict[str, int]) -> None:
    assert store.read("text", list(items)).tolist() == [[float(n), 1.0] for n in items.values()]
    assert store.token_counts(list(items)).tolist() == list(items.values())


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1500])
def test_a_gpu_gets_full_batches_from_one_thread(store: VectorStore, count: int) -> None:
    gpu, items = Gpu(room=512), todo(count)
    assert fill(store, "text", items, prepare, gpu, CUDA, 512).added == count
    check(store, items)
    assert gpu.sizes == [512] * (count // 512) + [count % 512] * (count % 512 > 0)
    assert gpu.threads == {threading.get_ident()}


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    gpu, items = Gpu(room=150), todo(1300)
    assert fill(store, "text", items, prepare, gpu, CUDA, 512).added == 1300
    check(store, items)
    assert gpu.sizes == [128] * 10 + [20] and len(emptied) == 2  # 512, 256, then 128 to the end


def test_not_even_one_that_fits_is_a_sentence_and_keeps_what_is_done(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(TooLittleMemory, match="--device cpu"):
        fill(store, "text", todo(3), prepare, Gpu(room=0), CUDA, 512)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_failures_among_good_ones(store: VectorStore, device: torch.device) -> None:
    good, bad = todo(40), {text_key("bad"): -1, text_key("worse"): -2}
    filled = fill(store, "text", {**good, **bad}, prepare, Gpu(room=512), device, 512)
    assert filled.added == 40 and store.failures("text") == dict.fromkeys(bad, "negative")
    check(store, good)
    only_bad = {text_key("another"): -3}
    assert fill(store, "text", only_bad, prepare, Gpu(room=512), device, 512).added == 0


def test_cores_take_whole_batches_each_in_one_thread_of_its_own(store: VectorStore) -> None:
    before, seen = torch.get_num_threads(), set()

    def encode(tensors: Sequence[Tensor]) -> Tensor:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return torch.stack(list(tensors))

    items = todo(30)
    fill(store, "text", items, prepare, encode, CPU, 4)
    check(store, items)
    assert threading.get_ident() not in {thread for thread, _ in seen} and {number for _, number in seen} == {1}
    assert torch.get_num_threads() == before


# GPU results are fetched one batch later
@pytest.mark.parametrize(("device", "whole"), [(CPU, 2), (CUDA, 1)])
def test_an_error_of_the_encoder_keeps_what_is_encoded(store: VectorStore, device: torch.device, whole: int) -> None:
    def encode(tensors: Sequence[Tensor]) -> Tensor:
        # the third batch, recognised by its content: threads take batches in no fixed order
        if any(tensor[0] == 1100 for tensor in tensors):
            raise RuntimeError("broken")
        return torch.stack(list(tensors))

    with pytest.raises(RuntimeError, match="broken"):
        fill(store, "text", todo(2000), prepare, encode, device, 512)
    kept = store.known("text")
    assert kept == {text_key(str(n)) for n in range(whole * 512)}
    assert np.isfinite(store.read("text", sorted(kept))).all()
