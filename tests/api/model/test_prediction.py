"""The predictor: decoding, OCR, caches and metrics."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
from api_fakes import PATIENCE, FakeClassifier, make_predictor
from fakes import picture
from torch import Tensor

from api.metrics import Metrics
from api.model import prediction
from api.model.prediction import Meme, Predictor, Reader
from api.schema import MAX_TEXT_CHARS, Explanation, ReadText
from api.settings import ServeSettings
from embed.ocr.reader import OcrFailed, OcrUnavailable
from embed.pictures.decoding import NotAnImage, UnreadableImage

Make = Callable[..., Predictor]


class Words:
    """Fake OCR that returns `text`; waits while `may_read` is clear. calls: count; most: concurrent calls."""

    def __init__(self, text: str = "read", failure: Exception | None = None) -> None:
        self.text, self.failure = text, failure
        self.may_read = threading.Event()
        self.may_read.set()
        self.began = threading.Semaphore(0)
        self.calls = self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> str:
        with self._lock:
            self.calls, self._now = self.calls + 1, self._now + 1
            self.most = max(self.most, self._now)
        self.began.release()
        assert self.may_read.wait(PATIENCE)
        with self._lock:
            self._now -= 1
        if self.failure is not None:
            raise self.failure
        return self.text


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def make(classifier: FakeClassifier) -> Iterator[Make]:
    with ExitStack() as cleanup:

        def made(reader: Callable[[bytes], str] | None = None, **settings: Any) -> Predictor:
            return cleanup.enter_context(closing(make_predictor(classifier, reader, **settings)))

        cleanup.callback(classifier.may_run.set)
        yield made
        classifier.may_run.set()


def images(classifier: FakeClassifier) -> list[int]:
    return [count for kind, count in classifier.encoded if kind == "image"]


def texts(classifier: FakeClassifier) -> list[int]:
    return [count for kind, count in classifier.encoded if kind == "text"]


def sample(predictor: Predictor, metric: str, **labels: str) -> float:
    """A value of the predictor's metrics; 0 if there is none."""
    return predictor._metrics.registry.get_sample_value(metric, labels) or 0.0


def test_the_same_picture_and_text_are_encoded_once(make: Make, classifier: FakeClassifier) -> None:
    predictor = make()
    answers = [predictor.predict(Meme(picture(), "sneer"), "id") for _ in range(3)]
    assert images(classifier) == texts(classifier) == [1]
    assert answers[0] == answers[1] == answers[2] and answers[0].probability == 0.5
    predictor.predict(Meme(picture(), "other"), "id")
    predictor.predict(Meme(picture(1), "sneer"), "id")
    assert images(classifier) == texts(classifier) == [1, 1]
    for kind in ("image", "text"):
        assert sample(predictor, "meme_cache_lookups_total", kind=kind, result="hit") == 3
        assert sample(predictor, "meme_cache_lookups_total", kind=kind, result="miss") == 2


def test_surrounding_whitespace_does_not_change_the_cache_key(make: Make, classifier: FakeClassifier) -> None:
    predictor = make()
    answers = [predictor.predict(Meme(picture(), text), "id") for text in ("sneer", "  sneer\n", "\0sneer", "Sneer")]
    assert [answer.text.value for answer in answers] == ["sneer", "sneer", "sneer", "Sneer"]
    assert texts(classifier) == [1, 1]


def test_the_least_recently_used_is_evicted(make: Make, classifier: FakeClassifier) -> None:
    predictor = make(cache=2)
    for seed in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1
        predictor.predict(Meme(picture(seed), "x"), "id")
    assert images(classifier) == [1, 1, 1, 1]


def test_without_a_cache_only_duplicates_in_a_batch_run_once(make: Make, classifier: FakeClassifier) -> None:
    words = Words()
    predictor = make(words, cache=0, wait_ms=0)
    for _ in range(2):
        predictor.predict(Meme(picture(), None), "id")
    assert images(classifier) == texts(classifier) == [1, 1] and words.calls == 2
    classifier.encoded.clear()
    busy = occupy(predictor, classifier)
    twins = [predictor.begin(Meme(picture(7), "twin"), "id") for _ in range(3)]
    classifier.may_run.set()
    assert [answer().probability for answer in twins] == [0.4] * 3
    assert [answer().label for answer in busy] == ["non-offensive"] * len(busy)
    assert max(images(classifier)) == 1


def occupy(predictor: Predictor, classifier: FakeClassifier) -> list[Any]:
    """Block every worker with a meme; returns their results."""
    classifier.may_run.clear()
    while classifier.began.acquire(blocking=False):
        pass  # those of before
    begun = []
    for number in range(predictor._batcher._worker_count):
        begun.append(predictor.begin(Meme(picture(100 + number), "x"), "id"))
        assert classifier.began.acquire(timeout=PATIENCE)
    return begun


def test_a_cached_picture_is_not_decoded(make: Make, classifier: FakeClassifier) -> None:
    predictor = make()
    for _ in range(3):
        predictor.predict(Meme(picture(), "x"), "id")
    assert sample(predictor, "meme_stage_seconds_count", stage="decode") == 1


@pytest.mark.parametrize(
    ("text", "ocr", "value", "source"),
    [(None, True, "read", "ocr"), (" \n", True, "read", "ocr"), (None, False, "", "none"),
     ("own", True, "own", "request"), ("own", False, "own", "request")],
)  # fmt: skip
def test_ocr_runs_only_without_a_text(make: Make, text: str | None, ocr: bool, value: str, source: str) -> None:
    words = Words(" read\n")
    predictor = make(words)
    answer = predictor.predict(Meme(picture(), text, ocr), "id")
    assert (answer.text.value, answer.text.source) == (value, source)
    assert answer.probability == len(value) / 10
    assert words.calls == sample(predictor, "meme_stage_seconds_count", stage="ocr") == (source == "ocr")


def test_without_ocr_the_source_is_none(make: Make) -> None:
    assert make().predict(Meme(picture(), None), "id").text.source == "none"


@pytest.mark.parametrize("text", ["read", ""])
def test_ocr_runs_once_per_picture(make: Make, text: str) -> None:
    words = Words(text)
    predictor = make(words)
    answers = [predictor.predict(Meme(picture(), blank), "id") for blank in (None, "", " ", "\u200b \u200e\n\ufeff")]
    assert words.calls == 1
    assert {(answer.text.value, answer.text.source) for answer in answers} == {(text, "ocr")}
    predictor.predict(Meme(picture(1), None), "id")
    assert words.calls == 2


def test_ocr_runs_once_for_concurrent_requests(make: Make) -> None:
    words = Words()
    predictor = make(words)
    words.may_read.clear()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(predictor.predict, Meme(picture(), None), "id") for _ in range(5)]
        assert words.began.acquire(timeout=PATIENCE)
        assert not words.began.acquire(timeout=0.05), "another reads the same picture"
        words.may_read.set()
        assert {answer.result(PATIENCE).text.value for answer in answers} == {"read"}
    assert words.calls == 1


def test_ocr_runs_one_picture_at_a_time_also_during_a_reload(classifier: FakeClassifier) -> None:
    words = Words()
    reader, metrics = Reader(words, "fake"), Metrics()
    old, new = (Predictor(classifier, ServeSettings(), metrics, reader) for _ in range(2))  # type: ignore[arg-type]
    words.may_read.clear()
    with closing(old), closing(new), ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(one.predict, Meme(picture(seed), None), "id") for seed, one in enumerate((old, new))]
        assert words.began.acquire(timeout=PATIENCE)
        assert not words.began.acquire(timeout=0.05), "two read at once"
        words.may_read.set()
        assert [answer.result(PATIENCE).text.value for answer in answers] == ["read"] * 2
    assert words.calls == 2 and words.most == 1


def test_ocr_text_is_truncated_at_the_limit(make: Make, classifier: FakeClassifier) -> None:
    start = "a" * (MAX_TEXT_CHARS - 1)
    answer = make(Words(start + " and more")).predict(Meme(picture(), None), "id")
    assert answer.text.value == start, "the cut left a blank at the end, under which nothing is found again"
    assert len(make(Words("b" * 9000)).predict(Meme(picture(), None), "id").text.value) == MAX_TEXT_CHARS


def test_an_unreadable_picture_is_refused_and_not_cached(make: Make) -> None:
    words = Words(failure=UnreadableImage("no words"))
    predictor = make(words)
    with pytest.raises(UnreadableImage, match="no words"):
        predictor.predict(Meme(picture(), None), "id")
    words.failure = None
    assert predictor.predict(Meme(picture(), None), "id").text.value == "read"


def test_a_bad_picture_does_not_fail_others(make: Make, classifier: FakeClassifier) -> None:
    predictor = make(wait_ms=1000)
    good = predictor.begin(Meme(picture(), "sneer"), "a")
    with pytest.raises(NotAnImage):
        predictor.begin(Meme(b"no image", "sneer"), "b")
    other = predictor.begin(Meme(picture(1), "sneers"), "c")
    assert [(answer().request_id, answer().probability) for answer in (good, other)] == [("a", 0.5), ("c", 0.6)]


def test_at_most_one_picture_per_core_is_decoded_at_a_time(
    classifier: FakeClassifier, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "cores", lambda: 2)
    began, may_go = threading.Semaphore(0), threading.Event()
    prepare = classifier.prepare_image

    def slow(data: bytes) -> Tensor:
        began.release()
        assert may_go.wait(PATIENCE)
        return prepare(data)

    classifier.prepare_image = slow  # type: ignore[method-assign]
    predictor = make()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(predictor.predict, Meme(picture(seed), "x"), "id") for seed in range(4)]
        for _ in range(2):
            assert began.acquire(timeout=PATIENCE)
        assert not began.acquire(timeout=0.05)
        may_go.set()
        assert [answer.result(PATIENCE).probability for answer in answers] == [0.1] * 4


def test_stages_and_predictions_are_counted(make: Make, classifier: FakeClassifier) -> None:
    classifier.review = {"low": 0.3, "high": 0.5}
    predictor = make(Words("abc"))
    for text in (None, "a", "sneering", "sneering!"):
        predictor.predict(Meme(picture(), text), "id")
    stages = {
        stage: sample(predictor, "meme_stage_seconds_count", stage=stage)
        for stage in ("decode", "ocr", "queue", "model", "explain")
    }
    assert stages == {"decode": 1, "ocr": 1, "queue": 4, "model": 4, "explain": 0}
    predictor.predict(Meme(picture(), None, explain=True), "id")
    assert sample(predictor, "meme_stage_seconds_count", stage="explain") == 1
    labels = {
        label: sample(predictor, "meme_predictions_total", label=label)
        for label in ("offensive", "non-offensive", "review")
    }
    assert labels == {"offensive": 2, "non-offensive": 1, "review": 2}
    assert sample(predictor, "meme_probability_sum") == pytest.approx(0.3 + 0.1 + 0.8 + 0.9 + 0.3)
    assert sample(predictor, "meme_probability_bucket", le="0.3") == 3
    assert sample(predictor, "meme_batch_size_count") == sample(predictor, "meme_batch_size_sum") == 5


def test_a_refusal_is_not_counted_as_a_prediction(make: Make) -> None:
    predictor = make()
    with pytest.raises(NotAnImage):
        predictor.predict(Meme(b"no image", "x"), "id")
    assert sample(predictor, "meme_probability_count") == 0


def test_memes_that_wait_for_the_model_are_counted(make: Make, classifier: FakeClassifier) -> None:
    predictor = make(wait_ms=0)
    begun = occupy(predictor, classifier)
    assert predictor.waiting() == 0
    begun += [predictor.begin(Meme(picture(seed), "x"), "id") for seed in range(3)]
    assert predictor.waiting() == 3
    classifier.may_run.set()
    assert len([answer() for answer in begun]) == len(begun) and predictor.waiting() == 0


def test_a_prediction_in_progress_is_explained_after_close(
    make: Make, classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload closes the old predictor while its last predictions are in progress."""

    class Asks:
        def __init__(self, *_: Any) -> None: ...

        def explain(self, image: Tensor, text: Tensor, probability: float, call: Callable[..., Any]) -> Explanation:
            return Explanation(None, call(lambda: 0.25).result(PATIENCE), probability, [])

    monkeypatch.setattr(prediction, "Explainer", Asks)
    predictor = make()
    answer = predictor.begin(Meme(picture(), "sneer", explain=True), "id")
    predictor.close()
    explained = answer().explanation
    assert explained.text_alone == 0.25 and explained.both == 0.5  # type: ignore[union-attr]


def test_a_failed_warm_up_leaves_no_threads(classifier: FakeClassifier) -> None:
    before = set(threading.enumerate())

    def fail(most: int = 1) -> None:
        raise RuntimeError("cold")

    classifier.warm_up = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cold"):
        make_predictor(classifier)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("error", [OcrFailed("odd"), OcrUnavailable("gone")])
def test_after_a_failure_of_ocr_the_picture_alone_is_classified(make: Make, error: Exception) -> None:
    predictor = make(Words(failure=error))
    assert predictor.predict(Meme(picture(), None), "id").text == ReadText("", "none")
    assert sample(predictor, "meme_unread_total") == 1
