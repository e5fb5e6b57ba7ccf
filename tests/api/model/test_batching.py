"""Dynamic batching: batches, order, failures, deadlines."""

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
from api.model.batching import Batcher, Closed, EncoderInput, Job, ModelFailure
from api.model.embedding_cache import EmbeddingCache

LONG = 10 * PATIENCE  # a wait that is only over in time when it is cut short
TEXT = 10_000  # a meme's probability is made of both its sides, so that neither can be another's


class Model:
    """A fake classifier whose vectors are the prepared numbers. Calls wait while `may_run` is clear, and release `began`."""

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

    def probabilities(self, image: Tensor, text: Tensor) -> Tensor:
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


def side(number: float, vector: bool = False) -> EncoderInput:
    row = torch.tensor([float(number)])
    return EncoderInput(str(number), vector=row) if vector else EncoderInput(str(number), row)


def job(number: float, text: float = 0.0) -> Job:
    return Job(side(number), side(text))


class Workers:
    """A batcher with a given number of workers, and jobs that are still being prepared."""

    def __init__(self, model: Model, batcher: Batcher, embedding_cache: EmbeddingCache) -> None:
        self.model, self.batcher, self.embedding_cache = model, batcher, embedding_cache

    def submit(self, *jobs: Job) -> list[Any]:
        return [self.batcher.submit(lambda one=one: one).done for one in jobs]

    @contextlib.contextmanager
    def arriving(self, outcome: Callable[[], Job]) -> Iterator[Callable[[], Any]]:
        """Submit a meme that is being prepared until the yielded function is called, which returns the result."""
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
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(
        count: int = 1, most: int = 8, wait: float = 0.0, cache: int = 100, model: Model | None = None, **more: Any
    ) -> Workers:
        monkeypatch.setattr(batching, "cores", lambda: count)
        model, metrics = model or Model(**more), Metrics()
        embedding_cache = EmbeddingCache(cache, metrics)
        made.append(Workers(model, Batcher(model, most, wait, embedding_cache, metrics), embedding_cache))  # type: ignore[arg-type]
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


def test_a_single_meme_does_not_wait(workers: Callable[..., Workers]) -> None:
    assert values(workers(wait=LONG).submit(job(7, 3))) == [30_007]


def test_memes_that_wait_for_the_model_form_a_batch(workers: Callable[..., Workers]) -> None:
    one = workers(most=4)
    one.model.may_run.clear()
    first = one.submit(job(0))
    one.model.wait_until_it_runs()
    others = one.submit(*(job(number) for number in range(1, 11)))
    assert one.batcher.waiting() == 10
    one.model.may_run.set()
    assert values(first + others) == list(range(11))
    assert one.model.encoded["image"] == [1, 4, 4, 2] and one.batcher.waiting() == 0


@pytest.mark.parametrize(("count", "memes", "sizes"), [(2, 6, [3, 3]), (3, 7, [2, 2, 3]), (2, 40, [8, 8])])
def test_the_queue_is_divided_among_the_idle_workers(
    workers: Callable[..., Workers], count: int, memes: int, sizes: list[int]
) -> None:
    one = workers(count, wait=LONG, most=8 if memes > 8 else 16)
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


def test_a_worker_starts_when_the_last_arriving_meme_is_there(workers: Callable[..., Workers]) -> None:
    one = workers(wait=LONG)
    with one.arriving(lambda: job(2)) as finish:
        first = one.submit(job(1))
        assert not one.model.began.acquire(timeout=0.05)
        last = finish()
    assert values([*first, last.done]) == [1, 2] and one.model.encoded["image"] == [2]


def test_a_full_batch_does_not_wait_for_more(workers: Callable[..., Workers]) -> None:
    one = workers(wait=LONG, most=2)
    with one.arriving(lambda: job(3)):
        assert values(one.submit(job(1), job(2))) == [1, 2]


@pytest.mark.parametrize("wait", [0.0, 0.01])
def test_a_worker_waits_at_most_max_wait(workers: Callable[..., Workers], wait: float) -> None:
    one = workers(wait=wait)
    with one.arriving(lambda: job(2)):
        assert values(one.submit(job(1))) == [1]


def test_a_worker_does_not_wait_for_a_meme_that_failed_to_decode(workers: Callable[..., Workers]) -> None:
    one = workers(wait=LONG)

    def unreadable() -> Job:
        raise ValueError("unreadable")

    with one.arriving(unreadable) as finish:
        first = one.submit(job(1))
        with pytest.raises(ValueError, match="unreadable"):
            finish()
    assert values(first) == [1]
    assert values(one.submit(job(2))) == [2], "it is still waited for"


@pytest.mark.parametrize("cache", [0, 50])
def test_each_meme_gets_its_own_probability(workers: Callable[..., Workers], cache: int) -> None:
    one = workers(3, most=5, wait=0.001, cache=cache)
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
def test_a_failure_fails_its_batch_only(
    workers: Callable[..., Workers], failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    one = workers()
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


def test_nan_fails_its_meme_only(workers: Callable[..., Workers]) -> None:
    one = workers()
    one.model.may_run.clear()
    first = one.submit(job(0))
    one.model.wait_until_it_runs()
    good, bad, other = one.submit(job(1), job(float("nan")), job(2))
    one.model.may_run.set()
    assert values([*first, good, other]) == [0, 1, 2]
    with pytest.raises(ModelFailure):
        bad.result(PATIENCE)


@pytest.mark.parametrize("method", ["encode_images", "encode_texts", "probabilities"])
def test_a_model_that_returns_too_few_rows_fails_the_batch(
    workers: Callable[..., Workers], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = workers()
    monkeypatch.setattr(one.model, method, lambda *_: torch.zeros(0, 1))
    with pytest.raises(ModelFailure):
        one.submit(job(1))[0].result(PATIENCE)
    monkeypatch.undo()
    assert values(one.submit(job(2))) == [2]


@pytest.mark.parametrize("cache", [0, 100])
def test_duplicates_in_a_batch_are_encoded_once(workers: Callable[..., Workers], cache: int) -> None:
    one = workers(cache=cache)
    one.model.may_run.clear()
    first = one.submit(job(9, 9))
    one.model.wait_until_it_runs()
    others = one.submit(job(1, 1), job(1, 2), job(2, 1), job(1, 1))
    one.model.may_run.set()
    assert values(first + others) == [expected(*pair) for pair in ((9, 9), (1, 1), (1, 2), (2, 1), (1, 1))]
    assert one.model.encoded == {"image": [1, 2], "text": [1, 2]} and one.model.judged == [1, 4]


@pytest.mark.parametrize(("cache", "images"), [(100, [1]), (0, [1, 1])])
def test_a_duplicate_that_waited_is_not_encoded_again(
    workers: Callable[..., Workers], cache: int, images: list[int]
) -> None:
    one = workers(most=1, cache=cache)
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
def test_an_input_with_a_vector_is_not_encoded(
    workers: Callable[..., Workers], known: tuple[bool, bool], encoded: dict[str, list[int]]
) -> None:
    one = workers()
    assert values(one.submit(Job(side(1, known[0]), side(2, known[1])))) == [20_001]
    assert one.model.encoded == encoded


def test_a_cached_vector_does_not_keep_its_batch_in_memory(workers: Callable[..., Workers]) -> None:
    one = workers(wait=LONG)
    with one.arriving(lambda: job(2)) as finish:
        futures = one.submit(job(1))
        futures.append(finish().done)
    assert values(futures) == [1, 2] and one.model.encoded["image"] == [2]
    kept = one.embedding_cache.peek("image", "1")
    assert kept.untyped_storage().nbytes() == 4


def test_a_single_meme_gets_all_cores_and_concurrent_ones_one_each(workers: Callable[..., Workers]) -> None:
    one = workers(2)
    one.model.may_run.clear()
    futures = one.submit(job(1))
    one.model.wait_until_it_runs()
    futures += one.submit(job(2))
    one.model.wait_until_it_runs()
    one.model.may_run.set()
    assert values(futures) == [1, 2] and one.model.threads == [2, 1]


def test_single_memes_go_to_the_main_worker(workers: Callable[..., Workers]) -> None:
    one = workers(2)
    for number in range(30):
        assert values(one.submit(job(number))) == [number]
        until(lambda: one.batcher._busy == 0)
    assert one.model.threads == [2] * 30, (
        "each worker that uses several cores has workers of its own, which crowd the cores"
    )


def test_a_gpu_has_one_worker(workers: Callable[..., Workers]) -> None:
    one = workers(4, device="cuda")
    one.model.may_run.clear()
    futures = one.submit(job(1))
    one.model.wait_until_it_runs()
    futures += one.submit(job(2), job(3))
    assert not one.model.began.acquire(timeout=0.05), "a second worker"
    one.model.may_run.set()
    assert values(futures) == [1, 2, 3] and one.model.encoded["image"] == [1, 2]


def test_every_number_of_threads_is_warmed_up(workers: Callable[..., Workers]) -> None:
    one = workers(4, most=6)
    one.batcher.warm_up()
    assert sorted(one.model.warmed) == [(1, 6), (2, 6), (3, 6), (4, 6)]


def test_close_finishes_the_queue(workers: Callable[..., Workers]) -> None:
    one = workers(2)
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


def test_a_meme_that_arrives_after_close_is_refused(workers: Callable[..., Workers]) -> None:
    one = workers(wait=LONG)
    with one.arriving(lambda: job(1)) as finish:
        in_time(one.batcher.close)
        with pytest.raises(Closed):
            finish()


def test_a_call_runs_in_a_worker_and_after_close_in_the_caller(workers: Callable[..., Workers]) -> None:
    one = workers(2)
    assert one.batcher.call(lambda: threading.current_thread().name).result(PATIENCE).startswith("model-")
    in_time(one.batcher.close)
    assert one.batcher.call(threading.current_thread).result(PATIENCE) is threading.current_thread()


@pytest.mark.parametrize("failure", [ZeroDivisionError(), SystemExit()])
def test_a_failing_call_raises_in_its_caller(workers: Callable[..., Workers], failure: BaseException) -> None:
    one = workers()

    def fail() -> None:
        raise failure

    with pytest.raises(type(failure)):
        one.batcher.call(fail).result(PATIENCE)
    assert values(one.submit(job(4))) == [4]


@pytest.mark.parametrize("count", [1, 2])
def test_a_call_runs_before_waiting_memes(workers: Callable[..., Workers], count: int) -> None:
    """The call wakes only one worker, which must not take memes first."""
    one = workers(count, wait=LONG)
    one.model.may_run.clear()
    with one.arriving(lambda: job(2)) as finish:
        futures = one.submit(job(1))
        assert not one.model.began.acquire(timeout=0.05)
        assert one.batcher.call(lambda: "called").result(PATIENCE) == "called"
        one.model.may_run.set()
        futures.append(finish().done)
    assert values(futures) == [1, 2]
