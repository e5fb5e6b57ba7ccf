"""Reloads of bundle and keys, and admission."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_fakes import CARD, FakeClassifier
from fakes import picture
from machine import PATIENCE, until
from msgspec.structs import replace
from torch import Tensor

from api.http.admission import Admission, Overloaded
from api.http.service import Service
from api.metrics import Metrics
from api.model.loading import LoadedModel
from api.model.prediction import Meme, Predictor
from api.schema import Model
from api.settings import ServeSettings

KEY, OTHER = "k" * 16, "o" * 24


class Disk:
    """Simulates a bundle on disk: versions v0, v1, ... of a classifier, or an error on loading."""

    def __init__(self, cleanup: ExitStack, **settings: object) -> None:
        self.settings, self.metrics = ServeSettings(**settings), Metrics()  # type: ignore[arg-type]
        self.failure: Exception | None = None
        self.classifiers: list[FakeClassifier] = []
        self.replaced: list[Predictor | None] = []
        self._cleanup = cleanup

    def load(self, old: Predictor | None) -> LoadedModel:
        self.replaced.append(old)
        if self.failure is not None:
            raise self.failure
        classifier = FakeClassifier()
        classifier.version = f"v{len(self.classifiers)}"  # type: ignore[misc]
        self.classifiers.append(classifier)
        predictor = Predictor(classifier, self.settings, self.metrics)  # type: ignore[arg-type]
        self._cleanup.callback(predictor.close)
        self._cleanup.callback(classifier.may_run.set)
        return LoadedModel(predictor, replace(CARD, model=Model(classifier.name, classifier.version)))

    def service(self) -> Service:
        return Service(self.settings, self.metrics, self.load)

    def sample(self, metric: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(metric, labels)


Make = Callable[..., Disk]


@pytest.fixture
def disk() -> Iterator[Make]:
    with ExitStack() as cleanup:
        yield lambda **settings: Disk(cleanup, **settings)


def ask(service: Service, seed: int = 0, text: str = "sneer") -> str:
    """The version of the response."""
    return service.begin(Meme(picture(seed), text), "id")().model.version


def test_reload_uses_what_is_on_disk(disk: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "api")
    made = disk()
    service = made.service()
    first = service.predictor
    assert (ask(service), service.card.model.version) == ("v0", "v0") and made.replaced == [None]
    assert service.reload() is True
    assert (ask(service), service.card.model.version) == ("v1", "v1") and made.replaced == [None, first]
    assert "reloaded: fake v1 is in use, before it was fake v0" in caplog.messages
    assert made.sample("meme_reloads_total", result="taken") == 1


def test_the_metrics_name_the_current_bundle_only(disk: Make) -> None:
    made = disk()
    service = made.service()
    assert made.sample("meme_model", name="fake", version="v0") == 1
    service.reload()
    assert made.sample("meme_model", name="fake", version="v1") == 1
    assert made.sample("meme_model", name="fake", version="v0") is None


def test_the_queue_depth_is_that_of_the_current_predictor(disk: Make) -> None:
    made = disk(wait_ms=0)
    service = made.service()
    service.reload()
    new = made.classifiers[1]
    new.may_run.clear()
    begun = []
    for _ in range(service.predictor._batcher._worker_count):
        begun.append(service.begin(Meme(picture(), "sneer"), "id"))
        assert new.began.acquire(timeout=PATIENCE)
    begun += [service.begin(Meme(picture(), "sneer"), "id") for _ in range(3)]
    assert made.sample("meme_queue_depth") == 3
    new.may_run.set()
    assert {answer().model.version for answer in begun} == {"v1"} and made.sample("meme_queue_depth") == 0


@pytest.mark.parametrize(
    "failure", [ValueError("no such bundle"), OSError("no such file"), RuntimeError("out of memory"), KeyError("aim")]
)
def test_a_failed_reload_keeps_the_old_bundle(disk: Make, failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    made = disk()
    service = made.service()
    made.failure = failure
    assert service.reload() is False
    assert (ask(service), service.card.model.version) == ("v0", "v0")
    assert made.sample("meme_reloads_total", result="refused") == 1
    assert made.sample("meme_model", name="fake", version="v0") == 1
    refusal = caplog.messages[-1]
    assert refusal.startswith("reload failed, fake v0 stays in use: ") and str(failure) in refusal
    made.failure = None
    assert service.reload() is True and ask(service) == "v1"


def test_no_request_is_lost_during_reloads(disk: Make) -> None:
    made = disk(cache=4)
    service = made.service()
    stop, told = threading.Event(), set[str]()

    def traffic(seed: int) -> list[str]:
        seen = []
        while not stop.is_set():
            seen.append(ask(service, seed + len(seen) % 7, "x" * (len(seen) % 9)))
            told.add(seen[-1])
        return seen

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(traffic, seed) for seed in range(8)]
        try:
            for number in range(1, 16):
                assert service.reload()
                until(lambda: f"v{number}" in told)  # noqa: B023
        finally:
            stop.set()
        seen = [client.result(PATIENCE) for client in clients]
    for versions in seen:
        numbers = [int(version[1:]) for version in versions]
        assert numbers == sorted(numbers)


def test_memes_that_wait_are_answered_by_the_old_bundle_and_new_ones_do_not_wait(disk: Make) -> None:
    made = disk()
    service = made.service()
    made.classifiers[0].may_run.clear()
    waiting = service.begin(Meme(picture(), "sneer"), "id")
    assert made.classifiers[0].began.acquire(timeout=PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(service.reload)
        until(lambda: len(made.classifiers) == 2 and service.predictor.model.version == "v1")
        assert ask(service) == "v1" and not reloading.done()
        made.classifiers[0].may_run.set()
        assert reloading.result(PATIENCE) is True
    assert waiting().model.version == "v0"


def test_a_meme_that_is_decoded_during_a_reload_goes_to_the_new_bundle(disk: Make) -> None:
    made = disk()
    service = made.service()
    old = made.classifiers[0]
    began, may_go, prepare = threading.Event(), threading.Event(), old.prepare_image

    def slow(data: bytes) -> Tensor:
        began.set()
        assert may_go.wait(PATIENCE)
        return prepare(data)

    old.prepare_image = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, service)
        assert began.wait(PATIENCE)
        assert service.reload() is True
        may_go.set()
        assert answer.result(PATIENCE) == "v1"


def test_concurrent_reloads_run_one_after_the_other(disk: Make) -> None:
    made = disk()
    service = made.service()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: service.reload(), range(4)))
    old = [predictor.model.version for predictor in made.replaced if predictor]
    assert old == ["v0", "v1", "v2", "v3"] and ask(service) == "v4"


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_only_whole_keys_are_valid(disk: Make, tmp_path: Path) -> None:
    service = disk(keys_file=write(tmp_path / "keys", "# ours", KEY, "", f"  {OTHER}  ")).service()
    assert service.requires_key
    known = {
        key: service.is_valid_key(key) for key in (KEY, OTHER, KEY[:-1], KEY + "k", KEY.upper(), "", "# ours", "ü")
    }
    assert [key for key, is_known in known.items() if is_known] == [KEY, OTHER]


def test_without_a_file_of_keys_none_is_required(disk: Make) -> None:
    service = disk().service()
    assert not service.requires_key and not service.is_valid_key("")


@pytest.mark.parametrize(
    ("lines", "said"),
    [(["short"], "line 1: expected at least 16"), ([KEY, "with a blank in it"], "line 2"), ([KEY, "ü" * 20], "line 2"),
     (["# nothing", ""], "holds no key")],
)  # fmt: skip
def test_unusable_keys_are_refused_at_the_start(disk: Make, tmp_path: Path, lines: list[str], said: str) -> None:
    path = write(tmp_path / "keys", *lines)
    with pytest.raises(ValueError, match=said) as caught:
        disk(keys_file=path).service()
    assert path in str(caught.value) and not any(line in str(caught.value) for line in lines if line)


def test_a_missing_file_of_keys_is_named(disk: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere cannot be read"):
        disk(keys_file=str(tmp_path / "nowhere")).service()


def test_reload_loads_keys_and_bundle_together(disk: Make, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = disk(keys_file=write(path, KEY))
    service = made.service()
    write(path, OTHER)
    assert service.reload() is True
    assert service.is_valid_key(OTHER) and not service.is_valid_key(KEY)
    write(path, "short")
    assert service.reload() is False
    assert service.is_valid_key(OTHER) and ask(service) == "v1"
    write(path, KEY)
    made.failure = ValueError("no such bundle")
    assert service.reload() is False
    assert service.is_valid_key(OTHER) and not service.is_valid_key(KEY)


def test_admission_up_to_the_limit(disk: Make) -> None:
    made = disk(queue=4)
    service = made.service()
    with service.admission.admit(3):
        assert service.admission.in_progress() == made.sample("meme_under_way") == 3
        with pytest.raises(Overloaded, match="3 memes are being processed, the limit is 4"):
            service.admission.admit(2).__enter__()
        with service.admission.admit():
            assert made.sample("meme_under_way") == 4
    with pytest.raises(ZeroDivisionError), service.admission.admit(4):
        raise ZeroDivisionError
    assert service.admission.in_progress() == 0


def test_concurrent_admission_never_exceeds_the_limit() -> None:
    admission, most, start = Admission(7), [0], threading.Barrier(20)

    def client(seed: int) -> int:
        refused = 0
        start.wait(PATIENCE)
        for turn in range(200):
            try:
                with admission.admit(1 + (seed + turn) % 5):
                    most[0] = max(most[0], admission.in_progress())
            except Overloaded:
                refused += 1
        return refused

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(client, range(20)))
    assert 0 < most[0] <= 7 and admission.in_progress() == 0
