"""Memes that arrive together run together, each gets its own answer, and nobody waits for ever."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from machine import PATIENCE, until
from torch import Tensor

from api.metrics import Metrics
from api.model import batching
from api.model.batching import Batcher, Closed, Job, ModelFailure, Side
from api.model.kept_vectors import Remembered

LONG = 10 * PATIENCE  # a wait that is only over in time when it is cut short
TEXT = 10_000  # a meme's probability is made of both its sides, so that neither can be another's


class Model:
    """Its vectors are the numbers that were prepared. While `may_run` is clear, its calls wait; `began` is released by
    each call that has begun."""

    def __init__(self, device: str = "cpu") -> None:
        self.encoder = SimpleNamespace(device=torch.device(device))
        self.may_run = threading.Event()
        self.may_run.set()
        self.began = threading.Semaphore(0)
        self.encoded: dict[str, list[int]] = {"image": [], "text": []}
        self.threads: list[int] = []
        self.warmed: list[tuple[int, int]] = []
        self.failure: BaseException | None = None
        self.judged: list[int] = []

    def encode_images(self, rows: Sequence[Tensor]) -> Tensor:
        self.threads.append(torch.get_num_threads())
        return self._run("image", rows)

    def encode_texts(self, rows: Sequence[Tensor]) -> Tensor:
        return self._run("text", rows)

    def judge(self, image: Tensor, text: Tensor) -> Tensor:
        self.judged.append(len(image))
        return expected(image[:, 0], text[:, 0]).double()

    def warm_up(self, most: int) -> None:
        self.warmed.append((torch.get_num_threads(), most))

    def _run(self, kind: str, rows: Sequence[Tensor]) -> Tensor:
        self.encoded[kind].append(len(rows))
        self.began.release()
        assert self.may_run.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        return torch.stack(list(rows))

    def wait_until_it_runs(self) -> None:
        assert self.began.acquire(timeout=PATIENCE)


def expected(image: Any, text: Any) -> Any:
    return image + TEXT * text


def side(number: float, vector: bool = False) -> Side:
    row = torch.tensor([float(number)])
    return Side(str(number), vector=row) if vector else Side(str(number), row)


def job(number: float, text: float = 0.0) -> Job:
    return Job(side(number), side(text))


class Lanes:
    """A batcher with as many lanes as asked for, and jobs that are still on their way."""

    def __init__(self, model: Model, batcher: Batcher, remembered: Remembered) -> None:
        self.model, self.batcher, self.remembered = model, batcher, remembered

    def submit(self, *jobs: Job) -> list[Any]:
        return [self.batcher.submit(lambda one=one: one).done for one in jobs]

    @contextlib.contextmanager
    def arriving(self, outcome: Callable[[], Job]) -> Iterator[Callable[[], Any]]:
        """A meme that is being prepared until what is yielded is called, which then returns what came of it."""
        begun, go_on = threading.Event(), threading.Event()

        def prepare() -> Job:
            begun.set()
            assert go_on.wait(PATIENCE)
            return outcome()

        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(self.batcher.submit, prepare)
            assert begun.wait(PATIENCE)

            def finish() -> Any:
                go_on.set()
                return submitted.result(PATIENCE)

            try:
                yield finish
            finally:
                go_on.set()


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lanes]]:
    made: list[Lanes] = []

    def make(
        count: int = 1, most: int = 8, wait: float = 0.0, cache: int = 100, model: Model | None = None, **more: Any
    ) -> Lanes:
        monkeypatch.setattr(batching, "cores", lambda: count)
        model, metrics = model or Model(**more), Metrics()
        remembered = Remembered(cache, metrics)
        made.append(Lanes(model, Batcher(model, most, wait, remembered, metrics), remembered))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.model.may_run.set()
        in_time(one.batcher.close)


def in_time(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def values(futures: Sequence[Any]) -> list[float]:
    return [future.result(PATIENCE) for future in futures]


def test_a_lone_meme_is_not_made_to_wait(lanes: Callable[..., Lanes]) -> None:
    assert values(lanes(wait=LONG).submit(job(7, 3))) == [30_007]


def test_memes_that_come_while_the_model_is_busy_run_together_at_most_a_batch(lanes: Callable[..., Lanes]) -> None:
    one = lanes(most=4)
    one.model.may_run.clear()
    first = one.submit(job(0))
    one.model.wait_until_it_runs()
    others = one.submit(*(job(number) for number in range(1, 11)))
    assert one.batcher.waiting() == 10
    one.model.may_run.set()
    assert values(first + others) == list(range(11))
    assert one.model.encoded["image"] == [1, 4, 4, 2] and one.batcher.waiting() == 0


@pytest.mark.parametrize(("count", "memes", "sizes"), [(2, 6, [3, 3]), (3, 7, [2, 2, 3]), (2, 40, [8, 8])])
def test_what_waits_is_shared_out_among_the_free_lanes(
    lanes: Callable[..., Lanes], count: int, memes: int, sizes: list[int]
) -> None:
    one = lanes(count, wait=LONG, most=8 if memes > 8 else 16)
    one.model.may_run.clear()
    with one.arriving(lambda: job(0)) as finish:
        futures = one.submit(*(job(number) for number in range(1, memes)))
        if memes <= 8:
            assert not one.model.began.acquire(timeout=0.05), "it did not wait for the last"
        futures.append(finish().done)
        for _ in range(count):
            one.model.wait_until_it_runs()
        assert sorted(one.model.encoded["image"][:count]) == sizes
        one.model.may_run.set()
    assert sorted(values(futures)) == list(range(memes))


def test_a_lane_goes_when_the_last_meme_on_its_way_is_there(lanes: Callable[..., Lanes]) -> None:
    one = lanes(wait=LONG)
    with one.arriving(lambda: job(2)) as finish:
        first = one.submit(job(1))
        assert not one.model.began.acquire(timeout=0.05)
        last = finish()
    assert values([*first, last.done]) == [1, 2] and one.model.encoded["image"] == [2]


def test_a_full_batch_does_not_wait_for_more(lanes: Callable[..., Lanes]) -> None:
    one = lanes(wait=LONG, most=2)
    with one.arriving(lambda: job(3)):
        assert values(one.submit(job(1), job(2))) == [1, 2]


@pytest.mark.parametrize("wait", [0.0, 0.01])
def test_no_lane_waits_longer_than_it_may(lanes: Callable[..., Lanes], wait: float) -> None:
    one = lanes(wait=wait)
    with one.arriving(lambda: job(2)):
        assert values(one.submit(job(1))) == [1]


def test_nobody_waits_for_a_meme_that_could_not_be_prepared(lanes: Callable[..., Lanes]) -> None:
    one = lanes(wait=LONG)

    def unreadable() -> Job:
        raise ValueError("unreadable")

    with one.arriving(unreadable) as finish:
        first = one.submit(job(1))
        with pytest.raises(ValueError, match="unreadable"):
            finish()
    assert values(first) == [1]
    assert values(one.submit(job(2))) == [2], "it is still waited for"


@pytest.mark.parametrize("cache", [0, 50])
def test_everybody_gets_their_own_answer(lanes: Callable[..., Lanes], cache: int) -> None:
    one = lanes(3, most=5, wait=0.001, cache=cache)
    start = threading.Barrier(200)

    def client(seed: int) -> list[tuple[float, float]]:
        order = random.Random(seed)
        start.wait(PATIENCE)
        asked = [(order.randrange(100), order.randrange(100)) for _ in range(5)]
        return [(expected(*pair), *values(one.submit(job(*pair)))) for pair in asked]

    with ThreadPoolExecutor(200) as pool:
        answers = [pair for client_pairs in pool.map(client, range(200)) for pair in client_pairs]
    assert len(answers) == 1000 and all(got == wanted for wanted, got in answers)
    assert max(one.model.judged) > 1 and sum(one.model.judged) == 1000


@pytest.mark.parametrize("failure", [RuntimeError("secret"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_a_failure_fails_its_batch_and_the_lane_lives_on(
    lanes: Callable[..., Lanes], failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    one = lanes()
    one.model.may_run.clear()
    first = one.submit(job(0))
    one.model.wait_until_it_runs()
    others = one.submit(job(1), job(2))
    one.model.failure = failure
    one.model.may_run.set()
    for future in first + others:
        with pytest.raises(ModelFailure) as caught:
            future.result(PATIENCE)
        assert "secret" not in str(caught.value)
    assert "the model failed on a batch of 2" in caplog.text and type(failure).__name__ in caplog.text
    one.model.failure = None
    assert values(one.submit(job(5), job(1))) == [5, 1]


def test_a_probability_that_is_not_a_number_fails_alone(lanes: Callable[..., Lanes]) -> None:
    one = lanes()
    one.model.may_run.clear()
    first = one.submit(job(0))
    one.model.wait_until_it_runs()
    good, bad, other = one.submit(job(1), job(float("nan")), job(2))
    one.model.may_run.set()
    assert values([*first, good, other]) == [0, 1, 2]
    with pytest.raises(ModelFailure):
        bad.result(PATIENCE)


@pytest.mark.parametrize("method", ["encode_images", "encode_texts", "judge"])
def test_a_model_that_answers_too_few_hangs_nobody(
    lanes: Callable[..., Lanes], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lanes()
    monkeypatch.setattr(one.model, method, lambda *_: torch.zeros(0, 1))
    with pytest.raises(ModelFailure):
        one.submit(job(1))[0].result(PATIENCE)
    monkeypatch.undo()
    assert values(one.submit(job(2))) == [2]


@pytest.mark.parametrize("cache", [0, 100])
def test_twins_in_a_batch_are_encoded_once(lanes: Callable[..., Lanes], cache: int) -> None:
    one = lanes(cache=cache)
    one.model.may_run.clear()
    first = one.submit(job(9, 9))
    one.model.wait_until_it_runs()
    others = one.submit(job(1, 1), job(1, 2), job(2, 1), job(1, 1))
    one.model.may_run.set()
    assert values(first + others) == [expected(*pair) for pair in ((9, 9), (1, 1), (1, 2), (2, 1), (1, 1))]
    assert one.model.encoded == {"image": [1, 2], "text": [1, 2]} and one.model.judged == [1, 4]


@pytest.mark.parametrize(("cache", "images"), [(100, [1]), (0, [1, 1])])
def test_what_was_encoded_while_its_twin_waited_is_not_encoded_again(
    lanes: Callable[..., Lanes], cache: int, images: list[int]
) -> None:
    one = lanes(most=1, cache=cache)
    one.model.may_run.clear()
    futures = one.submit(job(1))
    one.model.wait_until_it_runs()
    futures += one.submit(job(1))
    one.model.may_run.set()
    assert values(futures) == [1, 1] and one.model.encoded["image"] == images


@pytest.mark.parametrize(
    ("known", "encoded"),
    [((True, False), {"image": [], "text": [1]}), ((False, True), {"image": [1], "text": []}),
     ((True, True), {"image": [], "text": []})],
)  # fmt: skip
def test_a_side_that_has_its_vector_is_not_encoded(
    lanes: Callable[..., Lanes], known: tuple[bool, bool], encoded: dict[str, list[int]]
) -> None:
    one = lanes()
    assert values(one.submit(Job(side(1, known[0]), side(2, known[1])))) == [20_001]
    assert one.model.encoded == encoded


def test_a_vector_that_is_kept_keeps_no_batch_in_memory(lanes: Callable[..., Lanes]) -> None:
    one = lanes(wait=LONG)
    with one.arriving(lambda: job(2)) as finish:
        futures = one.submit(job(1))
        futures.append(finish().done)
    assert values(futures) == [1, 2] and one.model.encoded["image"] == [2]
    kept = one.remembered.peek("image", "1")
    assert kept.untyped_storage().nbytes() == 4


def test_a_lone_meme_gets_every_core_and_memes_that_compete_one_each(lanes: Callable[..., Lanes]) -> None:
    one = lanes(2)
    one.model.may_run.clear()
    futures = one.submit(job(1))
    one.model.wait_until_it_runs()
    futures += one.submit(job(2))
    one.model.wait_until_it_runs()
    one.model.may_run.set()
    assert values(futures) == [1, 2] and one.model.threads == [2, 1]


def test_memes_that_come_alone_all_go_to_the_wide_lane(lanes: Callable[..., Lanes]) -> None:
    one = lanes(2)
    for number in range(30):
        assert values(one.submit(job(number))) == [number]
        until(lambda: one.batcher._busy == 0)
    assert one.model.threads == [2] * 30, (
        "each lane that uses several cores has workers of its own, which crowd the cores"
    )


def test_a_gpu_has_one_lane(lanes: Callable[..., Lanes]) -> None:
    one = lanes(4, device="cuda")
    one.model.may_run.clear()
    futures = one.submit(job(1))
    one.model.wait_until_it_runs()
    futures += one.submit(job(2), job(3))
    assert not one.model.began.acquire(timeout=0.05), "a second lane"
    one.model.may_run.set()
    assert values(futures) == [1, 2, 3] and one.model.encoded["image"] == [1, 2]


def test_every_number_of_threads_is_warm(lanes: Callable[..., Lanes]) -> None:
    one = lanes(4, most=6)
    one.batcher.warm_up()
    assert sorted(one.model.warmed) == [(1, 6), (2, 6), (3, 6), (4, 6)]


def test_closing_finishes_what_waits_and_takes_no_more(lanes: Callable[..., Lanes]) -> None:
    one = lanes(2)
    one.model.may_run.clear()
    futures = one.submit(*(job(number) for number in range(30)))
    one.model.wait_until_it_runs()
    closing = threading.Thread(target=one.batcher.close)
    closing.start()
    one.model.may_run.set()
    closing.join(PATIENCE)
    assert not closing.is_alive() and values(futures) == list(range(30))
    with pytest.raises(Closed):
        one.submit(job(1))


def test_a_meme_that_was_on_its_way_when_it_closed_is_not_lost_in_silence(lanes: Callable[..., Lanes]) -> None:
    one = lanes(wait=LONG)
    with one.arriving(lambda: job(1)) as finish:
        in_time(one.batcher.close)
        with pytest.raises(Closed):
            finish()


def test_a_call_runs_in_a_lane_and_after_the_end_here(lanes: Callable[..., Lanes]) -> None:
    one = lanes(2)
    assert one.batcher.call(lambda: threading.current_thread().name).result(PATIENCE).startswith("model-")
    in_time(one.batcher.close)
    assert one.batcher.call(threading.current_thread).result(PATIENCE) is threading.current_thread()


@pytest.mark.parametrize("failure", [ZeroDivisionError(), SystemExit()])
def test_a_call_that_fails_tells_its_caller_and_the_lane_lives_on(
    lanes: Callable[..., Lanes], failure: BaseException
) -> None:
    one = lanes()

    def fail() -> None:
        raise failure

    with pytest.raises(type(failure)):
        one.batcher.call(fail).result(PATIENCE)
    assert values(one.submit(job(4))) == [4]


@pytest.mark.parametrize("count", [1, 2])
def test_a_call_waits_neither_for_memes_on_their_way_nor_behind_those_that_wait_for_them(
    lanes: Callable[..., Lanes], count: int
) -> None:
    """It wakes one lane; where that one took memes first, no other would know of the call."""
    one = lanes(count, wait=LONG)
    one.model.may_run.clear()
    with one.arriving(lambda: job(2)) as finish:
        futures = one.submit(job(1))
        assert not one.model.began.acquire(timeout=0.05)
        assert one.batcher.call(lambda: "called").result(PATIENCE) == "called"
        one.model.may_run.set()
        futures.append(finish().done)
    assert values(futures) == [1, 2]
