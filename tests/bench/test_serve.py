"""The load generator's messages, streams and reading of answers; from answers to figures, goals and claims."""

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import numpy as np
import pytest

from bench.client import LOST, Answer, Measured, Meme, ask, in_turn, message, parse_head, percentiles, with_repeats
from bench.load import Watch
from bench.load import summary as load_summary
from bench.serve import summary as serve_summary

MEMES = [Meme(bytes([number]) * 9, f"text {number} – ä") for number in range(5)]


def fields(parts: tuple[bytes, ...]) -> dict[str, bytes]:
    """A multipart request's fields, read by the standard library."""
    head, body = b"".join(parts).split(b"\r\n\r\n", 1)
    _, headers = head.split(b"\r\n", 1)
    parsed = BytesParser(policy=HTTP).parsebytes(headers + b"\r\n\r\n" + body)
    assert int(parsed["Content-Length"]) == len(body)
    return {part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True) for part in parsed.walk()
            if part.get_content_maintype() != "multipart"}  # fmt: skip


@pytest.mark.parametrize("variant", ["", "0000002a"])
def test_a_message_is_a_form_with_text_and_image(variant: str) -> None:
    found = fields(message(MEMES[1], variant))
    assert found["image"] == MEMES[1].data + variant.encode()
    assert found["text"].decode() == f"{MEMES[1].text} {variant}".strip()


def test_three_of_ten_repeat_an_earlier_meme_and_the_others_are_new() -> None:
    seen: set[bytes] = set()
    repeated = []
    for parts in itertools.islice(with_repeats(MEMES), 1000):
        whole = b"".join(parts)
        repeated.append(whole in seen)
        seen.add(whole)
    assert sum(repeated) == 300
    assert all(sum(repeated[start : start + 10]) == 3 for start in range(0, 1000, 10))


def test_the_same_seed_gives_the_same_stream() -> None:
    one, other, third = (list(itertools.islice(with_repeats(MEMES, seed), 200)) for seed in (1, 1, 2))
    assert one == other and one != third


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", (200, 12, None, False)),
        (b"HTTP/1.1 503 Busy\r\ncontent-length:3\r\nRETRY-AFTER: 2\r\n\r\n", (503, 3, 2.0, False)),
        (b"HTTP/1.1 503 Bye: now\r\nConnection: Close\r\nContent-Length: 0\r\nDate: a:b\r\n\r\n", (503, 0, None, True)),
    ],
)
def test_an_answers_head_is_read(head: bytes, expected: tuple[Any, ...]) -> None:
    assert parse_head(head) == expected


def test_an_answer_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_percentiles_are_those_of_the_definition() -> None:
    seconds = (np.random.default_rng(0).permutation(101) / 1000).tolist()
    assert percentiles(seconds) == {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 100.0}
    assert set(percentiles([]).values()) == {None}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the text's length; every fifth request is told to come again, every seventh is hung up on."""

    protocol_version = "HTTP/1.1"
    asked = itertools.count(1)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = next(self.asked)
        if number % 7 == 0:
            self.close_connection = True
            return
        self.send_response(503 if number % 5 == 0 else 200)
        if number % 5 == 0:
            self.send_header("Retry-After", "0.01")
        answer = str(len(body)).encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Not on the tests' stderr."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(Handler, "asked", itertools.count(1))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_every_message_is_sent_and_answers_find_their_messages(port: int) -> None:
    messages = [message(Meme(b"x" * number, "")) for number in range(60)]
    measured = ask(port, messages, clients=4)
    by_status: dict[int, list[Answer]] = {}
    for answer in measured.answers:
        by_status.setdefault(answer.status, []).append(answer)
    # who was told to come again did; a lost one is not sent twice
    assert len(by_status[200]) + len(by_status[LOST]) == 60
    assert len(measured.answers) == 60 + len(by_status[503])
    assert all(answer.retry_after == 0.01 for answer in by_status[503])
    lengths = {answer.number: int(answer.body) for answer in measured.ok()}
    # beside its n bytes of picture, each form is as long as any other: of which message is lost, threads decide
    assert len({length - number for number, length in lengths.items()}) == 1 < len(lengths)
    assert measured.figures()["answers"] == {str(status): len(found) for status, found in sorted(by_status.items())}


def test_the_time_ends_an_endless_stream(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.01)  # as if each look at it took so long
    monkeypatch.setattr("bench.client.time.perf_counter", lambda: next(clock))
    measured = ask(port, in_turn(MEMES), clients=3, seconds=0.3)
    assert 0.3 <= measured.seconds < 0.6 and 3 < len(measured.ok()) < 30


def test_clients_end_when_nobody_listens() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_address[1]
    assert ask(port, in_turn(MEMES), clients=2, seconds=30).answers == []


def one_round(plain: float, ours: float, p99: float, shift: float = 0.0) -> dict[str, Any]:
    """A round in which (c) runs 1.05 times as long as the module alone."""

    def entry(rate: float, tail: float, probability: float = 0.5) -> dict[str, Any]:
        figures = {"requests_per_s": rate, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": tail}
        clients = {"1": {**figures, "each_ms": [105.0, 210.0, 315.0]}, "8": figures, "32": figures}
        return {"ready_s": 1.0, "probabilities": [[probability], [probability]], "clients": clients}

    return {
        "plain, 4 threads": entry(plain, 50.0),
        "plain, 8 threads": entry(plain / 2, 1.0),
        "litserve, 1 workers": entry(20.0, 40.0),
        "ours": entry(ours, p99, 0.5 + shift),
        "ours_cached": entry(99.0, 1.0),
        "alone": {"ms": [100.0, 200.0, 300.0, 9000.0, 9000.0], "batch_ms": 400.0, "probabilities": [0.5], "threads": 2},
    }


STANDS_FOR = {
    "plain, 4 threads": "plain", "plain, 8 threads": "plain", "litserve, 1 workers": "litserve", "ours": "ours",
    "ours_cached": "ours_cached",
}  # fmt: skip


def test_the_fastest_round_counts_and_ratios_are_the_right_way_round() -> None:
    found = serve_summary(STANDS_FOR, [one_round(10.0, 22.0, 45.0), one_round(8.0, 30.0, 30.0)])
    assert found["chosen"]["plain"] == "plain, 4 threads"
    assert found["contenders"]["ours"]["32"]["each_round"] == [22.0, 30.0]
    assert list(found["ratios"].values()) == [1.05, 3.0, 1.5, 0.6, 0.75]
    assert set(found["goals"].values()) == {True} and found["agree"]
    json.dumps(found)


def test_missed_goals_and_probabilities_that_differ_are_seen() -> None:
    found = serve_summary(STANDS_FOR, [one_round(plain=18.0, ours=20.0, p99=60.0, shift=1e-5)])
    assert list(found["goals"].values()) == [True, False, False, False, False]
    assert not found["agree"] and found["differences"]["ours"] == pytest.approx(1e-5)


def test_without_litserve_its_ratios_are_null() -> None:
    names = {name: of for name, of in STANDS_FOR.items() if of != "litserve"}
    rounds = [{name: entry for name, entry in one_round(10.0, 20.0, 1.0).items() if "litserve" not in name}]
    found = serve_summary(names, rounds)
    assert found["ratios"]["requests/s c/b, 32 clients"] is found["goals"]["p99 c/b, 32 clients"] is None


def load_case(**changed: Any) -> dict[str, Any]:
    """Ten seconds of ten accepted memes a second, SIGTERM at the tenth, gone at the eleventh."""
    accepted = [Answer(n, n / 10, 0.3, 200, None, b"") for n in range(97)]
    refused = [Answer(100, 1.0, 0.01, 503, 1.0, b"")]
    last = [Answer(101, 9.9, 0.4, 200, None, b""), Answer(102, 10.2, 0.1, LOST, None, b"")]
    given = {"accepted": accepted, "refused": refused, "last": last, "rss_mb": [100.0] * 11, "exit_code": 0} | changed
    answers = [*given["accepted"], *given["refused"], *given["last"]]
    watch = Watch(given["rss_mb"], stopped=10.0, exit_code=given["exit_code"], exit_s=1.0)
    return load_summary(Measured(0.0, 11.0, 0.1, answers), watch, queue=32, batch=8, seconds=10)


def test_a_load_in_order_meets_every_claim() -> None:
    found = load_case()
    assert all(found["claims"].values())
    assert found["before_stop"] == {"200": 97, "503": 1} and found["under_way_at_stop"] == {"200": 1}
    assert found["after_stop"] == {"lost": 1} and found["bound_ms"] == pytest.approx(40 / 9.7 * 1000, abs=0.1)


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"refused": [Answer(100, 1.0, 0.01, 500, None, b"")]}, "nothing but 200 and 503"),
        ({"refused": [Answer(100, 1.0, 0.01, LOST, None, b"")]}, "nothing but 200 and 503"),
        ({"refused": [Answer(100, 1.0, 0.01, 503, None, b"")]}, "Retry-After"),
        ({"accepted": [Answer(n, n / 10 - 6, 6.0, 200, None, b"") for n in range(97)]}, "p99"),
        ({"rss_mb": [100.0] * 8 + [106.0] * 3}, "memory"),
        ({"last": [Answer(101, 9.9, 0.4, LOST, None, b"")]}, "was answered"),
        ({"exit_code": 1}, "exit 0"),
        ({"exit_code": None}, "exit 0"),
    ],
)  # fmt: skip
def test_a_claim_that_fails_is_seen(changed: dict[str, Any], claim: str) -> None:
    failed = [name for name, holds in load_case(**changed)["claims"].items() if not holds]
    assert len(failed) == 1 and claim in failed[0]


def test_memory_that_grows_before_it_settles_is_no_failure() -> None:
    assert all(load_case(rss_mb=[50.0, 80.0] + [100.0] * 9)["claims"].values())
