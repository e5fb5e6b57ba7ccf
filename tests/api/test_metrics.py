"""The metrics, parsed as Prometheus does."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import STAGES, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label values...): value}, through the text format."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_all_stages_exist_at_the_start() -> None:
    seen = samples(Metrics())
    assert {stage: seen["meme_stage_seconds_count", stage] for stage in STAGES} == dict.fromkeys(STAGES, 0)
    assert seen["process_resident_memory_bytes",] > 1e6 and seen["meme_under_way",] == seen["meme_queue_depth",] == 0


def test_a_failing_stage_is_timed() -> None:
    metrics = Metrics()
    with metrics.stage("decode"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.stage("decode"):
        raise ZeroDivisionError
    seen = samples(metrics)
    assert seen["meme_stage_seconds_count", "decode"] == 2 and seen["meme_stage_seconds_count", "model"] == 0
    assert 0 < seen["meme_stage_seconds_sum", "decode"] < 1


def test_gauges_are_read_at_each_scrape() -> None:
    metrics, under_way, waiting = Metrics(), [1, 2], [3]
    metrics.set_in_progress(lambda: len(under_way))
    metrics.set_model("a", "v1", lambda: len(waiting))
    assert samples(metrics)["meme_under_way",] == 2 and samples(metrics)["meme_queue_depth",] == 1
    under_way.clear()
    waiting.extend([4, 5])
    assert samples(metrics)["meme_under_way",] == 0 and samples(metrics)["meme_queue_depth",] == 3


def test_only_the_current_model_is_exported() -> None:
    metrics = Metrics()
    metrics.set_model("a", "v1", lambda: 9)
    metrics.set_model('b "quoted"', "v2", lambda: 4)
    seen = samples(metrics)
    assert {key: value for key, value in seen.items() if key[0] == "meme_model"} == {
        ("meme_model", 'b "quoted"', "v2"): 1
    }
    assert seen["meme_queue_depth",] == 4


@pytest.mark.parametrize(
    ("probability", "bucket"), [(0.0, "0.05"), (0.05, "0.05"), (0.050001, "0.1"), (0.5, "0.5"), (1.0, "1.0")]
)
def test_probability_buckets(probability: float, bucket: str) -> None:
    metrics = Metrics()
    metrics.probabilities.observe(probability)
    seen = samples(metrics)
    bins = {key[1]: value for key, value in seen.items() if key[0] == "meme_probability_bucket"}
    assert len(bins) == 21 and next(edge for edge, count in bins.items() if count) == bucket


def test_servers_are_separate_and_there_are_no_created_series() -> None:
    one, other = Metrics(), Metrics()
    one.failures.inc()
    assert samples(one)["meme_model_failures_total",] == 1 and samples(other)["meme_model_failures_total",] == 0
    assert b"_created" not in one.text()
