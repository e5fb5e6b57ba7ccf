"""Filling a store in batches; the GPU path runs with fakes, since no test needs a GPU."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from machine import PATIENCE
from torch import Tensor

import embed.engines.batches
import embed.engines.writing
from cache import Segment, VectorStore, text_key
from embed.base.memory import TooLittleMemory
from embed.engines.batches import Copy, Encode, Encoding, Here
from embed.engines.fill import fill
from embed.engines.prepare import Prepared
from embed.engines.writing import BrokenEncoder

SPEC = {"model": "fake"}


def cpu(encode: Encode, batch_size: int = 512) -> Encoding:
    return Encoding(encode, batch_size)


def gpu(encode: Encode, batch_size: int = 512) -> Encoding:
    return Encoding(encode, batch_size, on_gpu=True)


def prepare(key: str, item: int) -> Prepared:
    if item < 0:
        return Prepared(key, None, failure="negative")
    return Prepared(key, torch.tensor([float(item), 1.0]), tokens=item)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors))


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
        return stack(tensors)


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
    encode, items = Gpu(room=512), todo(count)
    assert fill(store, "text", items, prepare, gpu(encode)).added == count
    check(store, items)
    assert encode.sizes == [512] * (count // 512) + [count % 512] * (count % 512 > 0)
    assert encode.threads == {threading.get_ident()}


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    encode, items = Gpu(room=150), todo(1300)
    assert fill(store, "text", items, prepare, gpu(encode)).added == 1300
    check(store, items)
    assert encode.sizes == [128] * 10 + [20] and len(emptied) == 2  # 512, 256, then 128 to the end


def test_not_even_one_that_fits_is_a_sentence_and_keeps_what_is_done(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    encode = Gpu(room=2)

    def fewer(tensors: Sequence[Tensor]) -> Tensor:
        encode.room = 0 if any(tensor[0] == 2 for tensor in tensors) else encode.room
        return encode(tensors)

    with pytest.raises(TooLittleMemory, match="--device cpu"):
        fill(store, "text", todo(4), prepare, gpu(fewer, batch_size=2))
    assert store.known("text") == set(todo(2))


def fail_on_cpu(tensors: Sequence[Tensor]) -> Tensor:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def fail_to_prepare(key: str, item: int) -> Prepared:
    raise MemoryError


def test_memory_that_runs_out_on_a_cpu_is_a_sentence(store: VectorStore) -> None:
    with pytest.raises(TooLittleMemory, match="up to 4 texts each; use fewer processors"):
        fill(store, "text", todo(3), prepare, cpu(fail_on_cpu, 4))
    for encoding in (cpu(stack), gpu(stack)):
        with pytest.raises(TooLittleMemory, match="use fewer processors"):
            fill(store, "text", todo(3), fail_to_prepare, encoding)


@pytest.mark.parametrize("on", [cpu, gpu])
def test_failures_among_good_ones(store: VectorStore, on: type[Encoding]) -> None:
    good, bad = todo(40), {text_key("bad"): -1, text_key("worse"): -2}
    filled = fill(store, "text", {**good, **bad}, prepare, on(stack))
    assert filled.added == 40 and store.failures("text") == dict.fromkeys(bad, "negative")
    check(store, good)
    only_bad = {text_key("another"): -3}
    assert fill(store, "text", only_bad, prepare, on(stack)).added == 0


def with_nan(tensors: Sequence[Tensor]) -> Tensor:
    vectors = stack(tensors)
    vectors[vectors[:, 0] % 10 == 3, 1] = np.nan
    vectors[vectors[:, 0] % 10 == 4, 1] = np.inf
    return vectors


@pytest.mark.parametrize("on", [cpu, gpu])
def test_a_vector_that_is_not_finite_is_a_failure_of_its_item(store: VectorStore, on: type[Encoding]) -> None:
    items = todo(40)
    good = {key: n for key, n in items.items() if n % 10 not in (3, 4)}
    assert fill(store, "text", items, prepare, on(with_nan, 8)).added == 32
    check(store, good)
    failures = store.failures("text")
    assert failures.keys() == items.keys() - good.keys()
    assert "NaN or infinite numbers" in failures[text_key("3")]
    # a later run of such items alone: the encoder has made others
    more = {text_key("more"): 53}
    assert fill(store, "text", more, prepare, on(with_nan, 8)).added == 0
    assert more.keys() < store.failures("text").keys()
    with pytest.raises(BrokenEncoder, match="all 32 text"):  # but so many are not odd ones
        fill(store, "text", {text_key(f"more {n}"): 53 for n in range(32)}, prepare, on(with_nan, 8))


def test_only_vectors_that_are_not_finite_are_a_broken_encoder(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def broken(tensors: Sequence[Tensor]) -> Tensor:
        encoded.append(len(tensors))
        return stack(tensors) * np.nan

    with pytest.raises(BrokenEncoder, match="all 40 text vectors have NaN"):
        fill(store, "text", todo(40), prepare, gpu(broken, 8))
    assert not store.known("text") and not store.failures("text")
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_ROWS", 16)
    with pytest.raises(BrokenEncoder, match="all 16 text vectors"):  # long before the end
        fill(store, "text", todo(4000), prepare, gpu(broken, 8))


def test_cores_take_whole_batches_each_in_one_thread_of_its_own(store: VectorStore) -> None:
    before, seen = torch.get_num_threads(), set()

    def encode(tensors: Sequence[Tensor]) -> Tensor:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return stack(tensors)

    items = todo(30)
    fill(store, "text", items, prepare, cpu(encode, 4))
    check(store, items)
    assert threading.get_ident() not in {thread for thread, _ in seen} and {number for _, number in seen} == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("on", [cpu, gpu])
def test_an_error_keeps_all_that_was_encoded_before(
    store: VectorStore, on: type[Encoding], error: type[BaseException]
) -> None:
    def encode(tensors: Sequence[Tensor]) -> Tensor:
        # the third batch, recognised by its content: threads take batches in no fixed order
        if any(tensor[0] == 1100 for tensor in tensors):
            raise error
        return stack(tensors)

    def prepare_no_more(key: str, item: int) -> Prepared:
        if item == 1100:
            raise error
        return prepare(key, item)

    for prepared, encoded in ((prepare, encode), (prepare_no_more, stack)):
        with pytest.raises(error):
            fill(store, "text", todo(2000), prepared, on(encoded))
        kept = store.known("text")
        assert kept >= set(todo(1024)) and text_key("1100") not in kept
        assert np.isfinite(store.read("text", sorted(kept))).all()


def test_ctrl_c_while_a_gpu_is_waited_for_loses_nothing_that_it_computes(store: VectorStore) -> None:
    class Interrupted(Here):
        waits = 0

        def ready(self) -> bool:
            return False

        def rows(self) -> np.ndarray:
            Interrupted.waits += 1
            if Interrupted.waits == 2:
                raise KeyboardInterrupt
            return super().rows()

    with pytest.raises(KeyboardInterrupt):
        fill(store, "text", todo(80), prepare, Encoding(stack, 10, on_gpu=True, copy=Interrupted))
    assert store.known("text") == set(todo(40))  # one was taken, one waited for, two launched


def test_ctrl_c_while_a_slow_disk_is_waited_for_loses_nothing(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, waited = embed.engines.writing._Thread.put, list[Segment]()

    def interrupted(thread: embed.engines.writing._Thread, segment: Segment) -> None:
        waited.append(segment)
        if len(waited) == 2:
            raise KeyboardInterrupt
        put(thread, segment)

    monkeypatch.setattr(embed.engines.writing._Thread, "put", interrupted)
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fill(store, "text", todo(80), prepare, gpu(stack, 10))
    assert store.known("text") == set(todo(20))


class Clock:
    """A GPU and the thread that feeds it, in simulated seconds: a batch takes 1, stacking it .6, taking its rows .3."""

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0
        self.stalls = -1  # the first batch is waited for

    def encode(self, tensors: Sequence[Tensor]) -> Tensor:
        self.now += 0.6
        self.stalls += self.now > self.busy_until
        self.busy_until = max(self.now, self.busy_until) + 1
        return stack(tensors)

    def copy(self, vectors: Tensor) -> Copy:
        clock, done = self, self.busy_until

        class Later(Here):
            def ready(self) -> bool:
                return clock.now >= done

            def rows(self) -> np.ndarray:
                clock.now = max(clock.now, done) + 0.3
                return super().rows()

        return Later(vectors)


@pytest.mark.parametrize(("in_flight", "stalls"), [(embed.engines.batches._IN_FLIGHT, 0), (0, 19)])
def test_a_gpu_never_waits_for_stacking_copying_or_writing(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch, in_flight: int, stalls: int
) -> None:
    clock, here, add = Clock(), threading.get_ident(), store.add

    def slow(kind: str, segment: Segment) -> None:
        clock.now += 5 * (threading.get_ident() == here)
        add(kind, segment)

    monkeypatch.setattr(store, "add", slow)
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(embed.engines.batches, "_IN_FLIGHT", in_flight)
    fill(store, "text", todo(200), prepare, Encoding(clock.encode, 10, on_gpu=True, copy=clock.copy))
    check(store, todo(200))
    assert clock.stalls == stalls


@pytest.mark.parametrize("on", [cpu, gpu])
def test_batches_are_encoded_while_a_segment_is_written_and_segments_keep_their_order(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch, on: type[Encoding]
) -> None:
    later, add, written = threading.Event(), store.add, list[str]()

    def encode(tensors: Sequence[Tensor]) -> Tensor:
        if tensors[0][0] == 20:
            later.set()
        return stack(tensors)

    def slow(kind: str, segment: Segment) -> None:
        assert later.wait(PATIENCE)
        written.extend(segment.keys)
        add(kind, segment)

    monkeypatch.setattr(store, "add", slow)
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)
    fill(store, "text", todo(100), prepare, on(encode, 10))
    assert written == list(todo(100))


@pytest.mark.parametrize("on", [cpu, gpu])
def test_an_error_of_writing_ends_the_fill_with_that_error(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch, on: type[Encoding]
) -> None:
    add, added = store.add, list[str]()

    def full(kind: str, segment: Segment) -> None:
        if added:
            raise OSError(28, "No space left on device")
        added.extend(segment.keys)
        add(kind, segment)

    monkeypatch.setattr(store, "add", full)
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)
    with pytest.raises(OSError, match="No space left"):
        fill(store, "text", todo(100), prepare, on(stack, 10))
    assert store.known("text") == set(added)
