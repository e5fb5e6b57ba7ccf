"""What `/metrics` says, read as Prometheus reads it; two servers in one process share no counts."""

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


def test_every_stage_is_there_before_the_first_meme() -> None:
    seen = samples(Metrics())
    assert {stage: seen["meme_stage_seconds_count", stage] for stage in STAGES} == dict.fromkeys(STAGES, 0)
    assert seen["process_resident_memory_bytes",] > 1e6 and seen["meme_under_way",] == seen["meme_queue_depth",] == 0


def test_a_stage_is_timed_also_when_it_fails() -> None:
    metrics = Metrics()
    with metrics.stage("decode"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.stage("decode"):
        raise ZeroDivisionError
    seen = samples(metrics)
    assert seen["meme_stage_seconds_count", "decode"] == 2 and seen["meme_stage_seconds_count", "model"] == 0
    assert 0 < seen["meme_stage_seconds_sum", "decode"] < 1


def test_gauges_are_read_when_somebody_asks() -> None:
    metrics, under_way, waiting = Metrics(), [1, 2], [3]
    metrics.watch(lambda: len(under_way))
    metrics.serving("a", "v1", lambda: len(waiting))
    assert samples(metrics)["meme_under_way",] == 2 and samples(metrics)["meme_queue_depth",] == 1
    under_way.clear()
    waiting.extend([4, 5])
    assert samples(metrics)["meme_under_way",] == 0 and samples(metrics)["meme_queue_depth",] == 3


def test_one_bundle_at_a_time_answers() -> None:
    metrics = Metrics()
    metrics.serving("a", "v1", lambda: 9)
    metrics.serving('b "quoted"', "v2", lambda: 4)
    seen = samples(metrics)
    assert {key: value for key, value in seen.items() if key[0] == "meme_model"} == {
        ("meme_model", 'b "quoted"', "v2"): 1
    }
    assert seen["meme_queue_depth",] == 4


@pytest.mark.parametrize(
    ("probability", "bucket"), [(0.0, "0.05"), (0.05, "0.05"), (0.050001, "0.1"), (0.5, "0.5"), (1.0, "1.0")]
)
def test_probabilities_fall_into_twenty_equal_bins(probability: float, bucket: str) -> None:
    metrics = Metrics()
    metrics.probabilities.observe(probability)
    seen = samples(metrics)
    bins = {key[1]: value for key, value in seen.items() if key[0] == "meme_probability_bucket"}
    assert len(bins) == 21 and next(edge for edge, count in bins.items() if count) == bucket


def test_two_servers_share_no_counts_and_no_line_says_when_a_count_began() -> None:
    one, other = Metrics(), Metrics()
    one.failures.inc()
    assert samples(one)["meme_model_failures_total",] == 1 and samples(other)["meme_model_failures_total",] == 0
    assert b"_created" not in one.text()
