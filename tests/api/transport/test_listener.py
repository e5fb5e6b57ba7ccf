"""The WSGI server over real sockets: refusals, slow clients, stopping."""

import http.client
import json
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from time import process_time
from typing import Any

import pytest
from machine import PATIENCE, WITHOUT_IPV6, has_ipv6, until

from api.transport.connection import Connection, Limits
from api.transport.listener import STOP_SECONDS, Listener, host_and_port, listen

MAX_BODY = 4_000_000


@pytest.fixture(autouse=True)
def quick_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.transport.listener._TICK_SECONDS", 0.05)


class Application:
    """Responds with the size of the body; /slow waits for `may_go`."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.slow = threading.Semaphore(0)  # released by each /slow that has begun
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.slow.release()
            assert self.may_go.wait(PATIENCE)
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError("a secret from inside")
        self.bodies.append(environ["wsgi.input"].read())
        answer = str(len(self.bodies[-1])).encode()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]


class Clock:
    """A clock that is set by the test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Served:
    """A running server, its clients, and its clock."""

    def __init__(
        self, application: Application, listener: Listener, thread: threading.Thread, clock: Clock, cleanup: ExitStack
    ) -> None:
        self.application, self.listener = application, listener
        self._thread, self._clock, self._cleanup = thread, clock, cleanup

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.listener.port), timeout=PATIENCE)
        self._cleanup.enter_context(client)
        client.sendall(sent)
        return client

    def get(self, path: str = "/") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.listener.port, timeout=PATIENCE)
        self._cleanup.callback(connection.close)
        connection.request("GET", path)
        return connection.getresponse().status

    def connections(self) -> list[Connection]:
        return list(self.listener._servers[0].active_channels.values())

    def later(self, seconds: float) -> None:
        """Advance the clock, and wait until the server has checked its deadlines."""
        self._clock.now += seconds
        until(lambda: self.listener._next_check > self._clock.now or self.listener._closed)

    def begun(self, wanted: int = 1) -> None:
        """Wait until the server has the first bytes of this many requests."""
        until(lambda: sum(connection.request is not None for connection in self.connections()) == wanted)

    def moved(self) -> None:
        """Wait until the server has received what the one client sent since the clock advanced."""
        until(lambda: self.connections()[0].last_byte_at == self._clock.now)

    def idle(self) -> bool:
        return all(connection.idle for connection in self.connections())

    def stop(self) -> None:
        """Stop, and wait until no more connections are accepted."""
        self.listener.stop()
        until(lambda: self.listener._servers[0].stopping)

    def ends(self) -> bool:
        """Whether `run` returns while the clock does not advance."""
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()


@contextmanager
def serving(
    threads: int = 2, max_body: int = MAX_BODY, stop_after: float = STOP_SECONDS, **limits: float
) -> Iterator[Served]:
    application, clock = Application(), Clock()
    listener = listen(application, "127.0.0.1", 0, threads, max_body, Limits(**limits))
    thread = threading.Thread(target=listener.run, args=(stop_after, clock))
    thread.start()
    with ExitStack() as cleanup:
        try:
            yield Served(application, listener, thread, clock, cleanup)
        finally:
            application.may_go.set()
            listener.stop()
            listener.stop()
            thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE)


def answer_of(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response."""
    with http.client.HTTPResponse(client) as response:
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def request(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed or reset the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_keep_alive() -> None:
    with serving() as served:
        client = served.connect(request("/", "Content-Length: 3", method="POST") + b"abc")
        status, headers, body = answer_of(client)
        assert (status, body) == (200, b"3")
        assert headers.keys() == {"content-length", "date"}  # no Server
        client.sendall(b"\r\n" + request())
        assert answer_of(client)[::2] == (200, b"0")


def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    with serving(max_body=1000) as served:
        client = served.connect(request("/", "Content-Length: 1000", method="POST") + bytes(1000))
        assert answer_of(client)[::2] == (200, b"1000")


def test_a_client_that_sends_three_times_the_limit_gets_the_413() -> None:
    with serving() as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.listener.port, timeout=PATIENCE)
        try:
            connection.request("POST", "/", body=bytes(3 * MAX_BODY))
            response = connection.getresponse()
            assert response.status == 413
            assert "4,000,000 bytes" in json.loads(response.read())["detail"]
        finally:
            connection.close()
        assert served.application.bodies == []


def test_a_chunked_body_over_the_limit_is_refused() -> None:
    with serving() as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.listener.port, timeout=PATIENCE)
        try:
            connection.request("POST", "/", body=(bytes(50_000) for _ in range(240)), encode_chunked=True)
            assert connection.getresponse().status == 413
        finally:
            connection.close()
        assert served.application.bodies == []


@pytest.mark.parametrize(("length", "expected"), [(10, 100), (MAX_BODY + 1, 413)])
def test_expect_continue_is_answered_at_once(length: int, expected: int) -> None:
    with serving() as served:
        client = served.connect(request("/", f"Content-Length: {length}", "Expect: 100-continue", method="POST"))
        assert client.recv(100).startswith(f"HTTP/1.1 {expected} ".encode())


def test_expect_continue_without_a_body() -> None:
    with serving() as served:
        assert answer_of(served.connect(request("/", "Expect: 100-continue")))[0] == 200


CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")
REFUSED = {
    "a huge header": (request("/", "X: " + "a" * 20_000), 431, "16,384 bytes"),
    "an endless first line": (b"GET /" + b"a" * 20_000, 431, "16,384 bytes"),
    "no HTTP at all": (b"\x16\x03\x01 hello\r\n\r\n", 400, "Start line is invalid"),
    "a broken header line": (request("/", "Authorization: Bearer secret\nkey"), 400, "header line"),
    "an address that Python cannot split": (request("http://["), 400, "invalid"),
    "an address that waitress takes long to split": (b"GET http://" + b"9" * 8000 + b" x\r\n\r\n", 400, "Start line"),
    "a value behind thousands of blanks": (request("/", "X:" + " " * 15_000 + "y"), 400, "blanks"),
    "a value behind folded blanks": (request("/", "X:" + ("\r\n" + " " * 60) * 200 + "y"), 400, "folded"),
    "a length of 5,000 digits": (request("/", "Content-Length: " + "9" * 5000), 400, "invalid"),
    "two lengths": (request("/", "Content-Length: 1", "Content-Length: 2"), 400, "Content-Length"),
    "an unknown encoding": (request("/", "Transfer-Encoding: gzip"), 400, "Transfer-Encoding"),
    "chunks without a size": (CHUNKED + b"x\r\n", 400, "chunk size"),
    "chunks of one byte": (CHUNKED + b"1\r\nx\r\n" * 50_000, 400, "too small"),
    "a chunk extension without end": (CHUNKED + b"1;" + b"a" * 200_000, 400, "too small"),
    "a trailer without end": (CHUNKED + b"0\r\nX: " + b"a" * 200_000, 400, "too small"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_http_is_refused_with_problem_json_and_a_log_line(case: str, caplog: pytest.LogCaptureFixture) -> None:
    sent, expected, phrase = REFUSED[case]
    with serving() as served, caplog.at_level(logging.DEBUG):
        start = process_time()  # of all threads; another program's does not count
        client = served.connect(sent)
        status, headers, body = answer_of(client)
        assert process_time() - start < 1
        problem = json.loads(body)
        assert status == problem["status"] == expected
        assert problem.keys() == {"type", "code", "title", "status", "detail", "request_id"}
        assert phrase in problem["detail"]
        assert "secret" not in body.decode() + caplog.text
        assert len(problem["request_id"]) == 32
        assert headers["x-request-id"] == problem["request_id"]
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["connection"] == "close"
        assert is_closed(client)
        assert served.application.bodies == []
    lines = [record.getMessage() for record in caplog.records if record.name == "api.transport"]
    assert sum(line.startswith(f"refused {expected} from 127.0.0.1: ") for line in lines) == 1


def test_an_application_that_raises_is_500_without_details() -> None:
    with serving() as served:
        status, headers, body = answer_of(served.connect(request("/broken")))
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert b"secret" not in body
        assert served.get() == 200


def test_a_pipelined_request_closes_the_connection() -> None:
    with serving() as served:
        client = served.connect(request() * 1000)
        status, headers, _ = answer_of(client)
        assert (status, headers["connection"]) == (200, "close")
        assert is_closed(client)
        assert len(served.application.bodies) == 1


@pytest.mark.parametrize("sent", [request() * 5000, b"\r\n\r\n" * 50_000 + request()], ids=["requests", "blank lines"])
def test_thousands_of_pipelined_requests_are_parsed_once(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[Any] = []
    original = Connection.parser_class

    def counted(settings: Any) -> Any:
        parsers.append(original(settings))
        return parsers[-1]

    monkeypatch.setattr(Connection, "parser_class", staticmethod(counted))
    with serving() as served:
        assert answer_of(served.connect(sent))[0] == 200
        assert len(parsers) == 1


def test_a_client_that_closed_its_sending_side_is_answered() -> None:
    with serving() as served:
        client = served.connect(request("/slow"))
        client.shutdown(socket.SHUT_WR)
        assert served.application.slow.acquire(timeout=PATIENCE)
        served.later(1)  # and the end of file is there to be seen
        served.application.may_go.set()
        assert answer_of(client)[::2] == (200, b"0")


@pytest.mark.parametrize(
    "sent", [b"GET / HT", request("/", "Content-Length: 100", method="POST"), CHUNKED], ids=["line", "body", "chunks"]
)
def test_a_slow_request_is_refused(sent: bytes) -> None:
    with serving(request_seconds=10) as served:
        client = served.connect(sent)
        served.begun()
        for _ in range(9):
            served.later(1)
            client.send(b"1")  # each of them would have renewed a time-out for silence
            served.moved()
        served.begun()  # it was not cut too early
        served.later(2)
        assert answer_of(client)[0] == 408


def test_a_slow_but_steady_upload_is_accepted() -> None:
    with serving(request_seconds=10, slowest_rate=1_000) as served:
        client = served.connect(request("/", "Content-Length: 20000", method="POST"))
        served.begun()
        for _ in range(10):
            served.later(2)
            client.sendall(bytes(2000))
            served.moved()
        assert answer_of(client)[::2] == (200, b"20000")


def test_slow_senders_hold_no_thread() -> None:
    with serving(threads=2) as served:  # and are never cut, since the clock stands still
        for _ in range(20):
            served.connect(request("/", "Content-Length: 100000", method="POST") + b"x")
        served.begun(20)
        assert served.get() == 200


def test_clients_that_do_not_read_hold_no_thread_and_are_closed() -> None:
    large = bytes(8_000_000)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = large if environ["PATH_INFO"] == "/large" else b""
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    with serving(threads=2) as served:
        for server in served.listener._servers:
            server.application = application
        stuck = [served.connect(request("/large")) for _ in range(4)]
        until(lambda: sum(connection.total_outbufs_len > 0 for connection in served.connections()) == 4)
        assert served.get() == 200
        served.later(29)
        assert len(served.connections()) >= 4, "too early"
        until(lambda: served.later(31) or len(served.connections()) <= 1)  # again: a byte may have gone out since
        for client in stuck:
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer_of(client)


def test_150_idle_connections_block_no_others() -> None:
    with serving() as served:
        clients = [served.connect(request()) for _ in range(150)]
        assert {answer_of(client)[0] for client in clients} == {200}
        assert served.get() == 200
        clients[0].sendall(request())
        assert answer_of(clients[0])[0] == 200


def test_an_idle_connection_is_closed() -> None:
    with serving(idle_seconds=10) as served:
        client = served.connect(request())
        assert answer_of(client)[0] == 200
        until(served.idle)
        served.later(9)
        assert len(served.connections()) == 1, "too early"
        served.later(2)
        assert is_closed(client)


def test_at_the_limit_the_longest_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.transport.listener._MAX_CONNECTIONS", 12)
    with serving() as served:
        first = served.connect(request())
        assert answer_of(first)[0] == 200
        for _ in range(3):
            clients = [served.connect(request()) for _ in range(8)]
            assert {answer_of(client)[0] for client in clients} == {200}
            served.later(2)
        assert is_closed(first)


def test_incomplete_bodies_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.transport.listener._MAX_HELD_BODIES", 2)
    with serving(max_body=100_000) as served:
        head = request("/", "Content-Length: 100000", method="POST")
        small = served.connect(head + bytes(1000))
        large = [served.connect(head + bytes(99_000)) for _ in range(3)]
        until(lambda: sum(connection.body_bytes for connection in served.connections()) == 1000 + 3 * 99_000)
        served.later(1)
        until(lambda: sum(connection.body_bytes for connection in served.connections()) == 1000 + 2 * 99_000)
        small.sendall(bytes(99_000))
        assert answer_of(small)[0] == 200
        for client in large:
            client.sendall(bytes(1000))
        answers = [answer_of(client) for client in large]
        assert sorted(status for status, _, _ in answers) == [200, 200, 503]
        assert all(headers["retry-after"] == "1" for status, headers, _ in answers if status == 503)


def test_stopping_answers_received_requests_and_accepts_no_more() -> None:
    with serving(threads=1) as served:
        running, waiting = served.connect(request("/slow")), served.connect(request("/slow"))
        kept = served.connect(request())
        assert served.application.slow.acquire(timeout=PATIENCE)
        served.stop()
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        served.application.may_go.set()
        for client in (running, waiting, kept):
            status, headers, _ = answer_of(client)
            assert (status, headers["connection"]) == (200, "close")
            client.close()
        assert served.ends()


def test_stopping_closes_idle_connections() -> None:
    with serving() as served:
        client = served.connect(request())
        assert answer_of(client)[0] == 200
        until(served.idle)
        served.stop()
        served.later(1)
        assert is_closed(client)
        assert served.ends()


def test_stopping_waits_a_moment_for_an_incomplete_request() -> None:
    with serving() as served:
        stuck, late = served.connect(b"GET / HT"), served.connect(b"GET / HT")
        served.begun(2)
        served.later(20)  # longer than it has after the stop
        served.stop()
        served.later(0.5)
        late.sendall(request()[8:])
        assert answer_of(late)[0] == 200
        served.later(1)
        status, headers, _ = answer_of(stuck)
        assert (status, headers["retry-after"]) == (503, "1")
        late.close()
        stuck.close()
        assert served.ends()


def test_stopping_answers_connections_that_wait_to_be_accepted() -> None:
    listener = listen(Application(), "127.0.0.1", 0, 2, MAX_BODY)
    with ExitStack() as cleanup:
        address = ("127.0.0.1", listener.port)
        clients = [cleanup.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(5)]
        for client in clients:
            client.sendall(request("/", "Connection: close"))
            client.shutdown(socket.SHUT_WR)
        listener.stop()
        listener.run()
        assert {answer_of(client)[0] for client in clients} == {200}


def test_stopping_works_from_a_signal_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "api.transport.listener._TICK_SECONDS", PATIENCE
    )  # it is woken, and does not wait for the next look
    listener = listen(Application(), "127.0.0.1", 0, 1, MAX_BODY)
    before = signal.signal(signal.SIGUSR1, lambda *_: listener.stop())
    missed = threading.Event()
    instead_of_a_hang = threading.Timer(PATIENCE / 2, lambda: (missed.set(), listener.stop()))

    def signal_once_it_runs() -> None:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE) as client:
            client.sendall(request())
            answer_of(client)
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        instead_of_a_hang.start()
        with in_background(signal_once_it_runs):
            listener.run()
        assert not missed.is_set()
    finally:
        instead_of_a_hang.cancel()
        signal.signal(signal.SIGUSR1, before)


def test_stopping_has_a_deadline() -> None:
    with serving(stop_after=5) as served:
        client = served.connect(request("/slow"))
        assert served.application.slow.acquire(timeout=PATIENCE)
        served.stop()
        served.later(4)
        assert not served.listener._closed, "too early"
        served.later(2)
        assert served.ends()
        assert is_closed(client)


def test_the_second_stop_ends_at_once() -> None:
    with serving() as served:
        served.connect(request("/slow"))
        assert served.application.slow.acquire(timeout=PATIENCE)
        served.listener.stop()
        served.listener.stop()
        assert served.ends()
        served.listener.stop()


def test_a_port_in_use_is_an_error() -> None:
    with serving() as served, pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+ .*give another --port"):
        listen(Application(), "127.0.0.1", served.listener.port, 1, MAX_BODY)


@pytest.mark.skipif(not has_ipv6(), reason=WITHOUT_IPV6)
def test_an_ipv6_address_answers() -> None:
    listener = listen(Application(), "::1", 0, 1, MAX_BODY)
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        with closing(http.client.HTTPConnection("::1", listener.port, timeout=PATIENCE)) as client:
            client.request("GET", "/")
            assert client.getresponse().read() == b"0"
        with pytest.raises(OSError, match=rf"cannot listen on \[::1\]:{listener.port} "):
            listen(Application(), "::1", listener.port, 1, MAX_BODY)
    finally:
        listener.stop()
        thread.join(PATIENCE)


def test_an_address_is_printed_as_a_url() -> None:
    assert (
        f"http://{host_and_port('::1', 8080)}" == "http://[::1]:8080"
        and f"http://{host_and_port('0.0.0.0', 80)}" == "http://0.0.0.0:80"
    )


@pytest.mark.parametrize("host", ["999.1.1.1", "", "a" * 70, "http://127.0.0.1", "127.0.0.1:80", "[::1]", "a..b"])
def test_an_unknown_host_is_an_error(host: str) -> None:
    with pytest.raises(ValueError, match=f"--host {re.escape(host)}: no such address"):
        listen(Application(), host, 0, 1, MAX_BODY)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="give another --host"):
        listen(Application(), "203.0.113.7", 0, 1, MAX_BODY)
