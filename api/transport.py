"""The HTTP server under the application: waitress, and what it lacks against hostile, slow and impatient clients.

    listener = listen(application, "127.0.0.1", 8080, threads=40, max_body=20_000_000)
    listener.run()  # until listener.stop()

It takes any WSGI application and knows nothing of Flask or memes. One thread (that of `run`) moves all bytes, so that a
client holds one of the others only while the application works for it: a request is handed over when it is there as a
whole, an answer is taken back into a buffer. Every refusal of a request that the application never sees is a problem+json
with a request id and one line in the log `api.transport`. `python -m api serve` uses it.
"""

import errno
import json
import logging
import math
import resource
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, Error

# `docker stop` kills after 10 s.
STOP_SECONDS = 8.0

# Twice what browsers send with large cookies, and we set none.
_MAX_HEADER_BYTES = 16_384
# Far above the threads, since a connection costs nothing but its file; most wait for their next request.
_MAX_CONNECTIONS = 1000
# At that number, a connection that has been idle for this long is closed for a new one; one that has been for less may
# have its next request on the way.
_SPARE_SECONDS = 1.0
# Sockets and bodies (waitress keeps those above 512 KB in temporary files) leave these to everybody else.
_SPARE_FILES = 100
# Bodies that are still arriving, together: 25 of the largest. Without it, each connection could fill the disk with one.
_HELD_BODIES = 25
# Measured: twice the rate of uploads of 2 MB that waitress's 8 KB give.
_RECEIVE_BYTES = 262_144
# waitress copies all that follows each chunk: a read of 256 KB in chunks of one byte took it seconds.
_CHUNKED_BYTES = 8_192
# What lengths, extensions and trailers of chunks may take beside an eighth of the body: nobody sends chunks below 50 bytes.
_CHUNK_FRAMING_BYTES = 65_536
# How often clocks are looked at.
_TICK_SECONDS = 0.25
# After the last answer only threads that the application keeps are left, and they do not outlive the process.
_THREADS_SECONDS = 0.5

_LOG = logging.getLogger("api.transport")

Application = Callable[..., Iterable[bytes]]


@dataclass(frozen=True)
class Limits:
    """How long one client may take, in seconds, and how much it may send in vain, in bytes."""

    # Load balancers drop idle connections after 60 s; it must be they who do, or requests meet a closing connection.
    idle_seconds: float = 75.0
    # From a request's first byte to its last, and a second more for each `slowest_rate` bytes that arrived. A photo of
    # 4 MB over a poor mobile line (40 kB/s) takes 100 s of 230 s allowed; a byte every ten seconds is cut after 30 s.
    request_seconds: float = 30.0
    slowest_rate: float = 20_000.0
    # Without taking a byte of its answer.
    answer_seconds: float = 30.0
    # After a refusal: many clients look for an answer only when they have sent everything.
    linger_seconds: float = 30.0
    linger_silence_seconds: float = 5.0
    linger_bytes: float = 250_000_000


# While stopping. A request that is on its way still gets in, a half-received one has a second.
_LAST_LIMITS = Limits(
    idle_seconds=0.25,
    request_seconds=1.0,
    slowest_rate=math.inf,
    answer_seconds=2.0,
    linger_seconds=2.0,
    linger_silence_seconds=0.5,
)


def listen(
    application: Application, host: str, port: int, threads: int, max_body: int, limits: Limits = Limits()
) -> "Listener":
    """A listening server; clients can connect from now on and are answered once `run` is called.

    port 0 takes any free one; max_body is in bytes (a chunked body's framing counts).
    Raises ValueError when the host has no address, OSError when it or the port cannot be had.
    """
    sockets: dict[int, Any] = {}
    dispatcher = ThreadedTaskDispatcher()
    # waitress warns of every request that waits for a thread, which under load is every request
    dispatcher.queue_logger = logging.getLogger("api.transport.queue")
    dispatcher.queue_logger.setLevel(logging.ERROR)
    adjustments = Adjustments(
        max_request_body_size=max_body + 1,  # waitress refuses what reaches it
        max_request_header_size=_MAX_HEADER_BYTES,
        recv_bytes=_RECEIVE_BYTES,
        connection_limit=_connection_limit(),
        # no reading while a request is at work: an end of file read then, from a client that closed its sending side
        # and waits for the answer, would close the connection
        channel_request_lookahead=0,
        ident=None,
        expose_tracebacks=False,
        clear_untrusted_proxy_headers=True,
    )
    servers: list[_Server] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            # of several addresses (localhost), all have the port that the first was given
            address = (address[0], port or (servers[0].port if servers else 0), *address[2:])
            info = (family, kind, protocol, address)
            servers.append(_Server(application, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=info))
            servers[-1].limits = limits
    except OSError as error:
        wasyncore.close_all(sockets)
        flag = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); give another {flag}") from error
    dispatcher.set_thread_count(threads)
    return Listener(servers, sockets, dispatcher)


class Listener:
    """What `listen` returns. `run` it once."""

    def __init__(self, servers: list["_Server"], sockets: dict[int, Any], dispatcher: ThreadedTaskDispatcher) -> None:
        self._servers, self._sockets, self._dispatcher = servers, sockets, dispatcher
        self._limit = servers[0].adj.connection_limit
        self._held_bytes = _HELD_BODIES * servers[0].adj.max_request_body_size
        self._stops = 0
        self._closed = False
        self._next_check = 0.0
        self.port: int = servers[0].port

    def stop(self) -> None:
        """End `run` when what has been received is answered; the second call ends it at once. For signal handlers and
        other threads; may be called at any time, after the end too."""
        self._stops += 1
        if not self._closed:
            self._servers[0].pull_trigger()

    def run(self, stop_after: float = STOP_SECONDS) -> None:
        """Answer until `stop`, then close the door, answer what has been received, and return: at most `stop_after`
        seconds (and half a second for threads) after `stop`, whatever is still at work then."""
        try:
            while not self._stops:
                if len(self._sockets) >= self._limit:
                    self._make_room()
                self._turn(_TICK_SECONDS)
            self._finish(monotonic() + stop_after)
        finally:
            self._close()

    def _turn(self, timeout: float) -> None:
        """Move what can be moved; from time to time, see who takes too long."""
        wasyncore.poll2(timeout, self._sockets)
        now = monotonic()
        if now >= self._next_check:
            self._next_check = now + _TICK_SECONDS
            for channel in self._channels():
                channel.check(now)
            self._bound_bodies()

    def _finish(self, deadline: float) -> None:
        now = monotonic()
        for server in self._servers:
            server.close_door()
            server.limits, server.stopping = _LAST_LIMITS, True
        for channel in self._channels():
            channel.restart_clock(now)
        self._turn(0)  # what lies in the sockets' buffers has been received as well
        while (left := self._channels()) and self._stops < 2 and monotonic() < deadline:
            self._turn(_TICK_SECONDS / 5)
        if left:
            _LOG.warning("stopped with %d connections open", len(left))

    def _close(self) -> None:
        self._closed = True  # before the trigger goes that `stop` pulls
        for channel in self._channels():
            channel.handle_close()
        self._dispatcher.shutdown(timeout=_THREADS_SECONDS)
        wasyncore.close_all(self._sockets)

    def _channels(self) -> list["_Channel"]:
        return [channel for server in self._servers for channel in server.active_channels.values()]

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its next request: at the limit, waitress would accept none
        until one of them went by itself."""
        idle = [
            channel for channel in self._channels() if channel.idle and monotonic() - channel.moved > _SPARE_SECONDS
        ]
        if idle:
            min(idle, key=lambda channel: channel.moved).handle_close()

    def _bound_bodies(self) -> None:
        """Refuse the largest of the half-received bodies when all of them together are too much."""
        arriving = [channel for channel in self._channels() if channel.request is not None]
        total = sum(channel.request.body_bytes_received for channel in arriving)
        for channel in sorted(arriving, key=lambda channel: -channel.request.body_bytes_received):
            if total <= self._held_bytes:
                break
            total -= channel.request.body_bytes_received
            channel.refuse(_error(503, "too many uploads are under way; send it again in a moment"))


class _RefusalTask(ErrorTask):
    """Answers a request that the application does not see."""

    def execute(self) -> None:
        error, request_id = self.request.error, uuid.uuid4().hex
        # waitress says 501 to encodings that it does not know, but the request is what is wrong
        code, title = (400, "Bad Request") if error.code == 501 else (error.code, error.reason)
        detail = _detail(code, error.body, self.channel.adj)
        problem = {"type": "about:blank", "title": title, "status": code, "detail": detail, "request_id": request_id}
        body = json.dumps(problem).encode()
        _LOG.info("refused %d from %s: %s", code, self.channel.addr[0], detail, extra={"request_id": request_id})
        self.status = f"{code} {title}"
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("X-Request-ID", request_id),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ]
        if code == 503:
            self.response_headers.append(("Retry-After", "1"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _ApplicationTask(WSGITask):
    def build_response_header(self) -> bytes:
        if self.channel.server.stopping:
            self.set_close_on_finish()
        return super().build_response_header()


class _Parser(HTTPRequestParser):
    """One request. Whatever follows it in the same read is not a request of ours: nobody's client sends a second one
    before the first answer, and thousands of them in one read would be thousands of answers to keep."""

    path = ""  # waitress logs it, and a request with a broken first line has none

    def received(self, data: bytes) -> int:
        used = len(data)
        try:
            used = super().received(data[:_CHUNKED_BYTES] if self.chunked else data)
        except ValueError:  # not caught by waitress: an address like http://[ and a Content-Length of 5,000 digits
            self.error = BadRequest("Start line or Content-Length is invalid")
        if self.chunked and self._framing_bytes() > _CHUNK_FRAMING_BYTES + len(self.body_rcv) / 8:
            self.error = BadRequest("the chunks are too small for what they bring")
        if not self.completed and not self.error:
            return used
        # waitress would send `100 Continue` for a request that is refused or has no body, and wait
        self.completed, self.expect_continue = True, False
        if data[used:].strip():
            self.headers["CONNECTION"] = "close"  # so that the client knows to send the rest again
        return len(data)

    def _framing_bytes(self) -> int:
        return self.body_bytes_received - len(self.body_rcv)


class _Channel(HTTPChannel):
    """One connection."""

    task_class = _ApplicationTask
    error_task_class = _RefusalTask
    parser_class = _Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.moved = monotonic()  # the last byte, in either direction
        self._begun = 0.0  # the first byte of `request`
        self._lingering: float | None = None  # since when
        self._thrown_away = 0
        super().__init__(*args, **kwargs)

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return not (
            self.requests  # first: a thread that ends a request sets the others before it empties this
            or self.request
            or self.total_outbufs_len
            or self.close_when_flushed
            or self._lingering
        )

    def check(self, now: float) -> None:
        """Refuse or close it if it has taken too long. waitress's own clean-up asks for the next chance to write, which a
        client that takes no answer never gives, and forgets senders that trickle."""
        limits, silence = self.server.limits, now - self.moved
        if self._lingering is not None:
            overdue = now - self._lingering > limits.linger_seconds or silence > limits.linger_silence_seconds
        elif self.request is not None:
            overdue = False
            arrived = self.request.header_bytes_received + self.request.body_bytes_received
            if now - self._begun > limits.request_seconds + arrived / limits.slowest_rate:
                self.refuse(self._lateness())
        elif self.total_outbufs_len:
            overdue = silence > limits.answer_seconds
        else:
            overdue = self.idle and silence > limits.idle_seconds
        if overdue:
            self.handle_close()

    def restart_clock(self, now: float) -> None:
        self._begun = now
        self._lingering = self._lingering and now

    def refuse(self, error: Error) -> None:
        """Answer the half-received request with `error`. Only the thread of `run` may."""
        with self.requests_lock:
            self.request.error, self.request.completed = error, True
            self.requests.append(self.request)
            self.request = None
            self.server.add_task(self)

    def _lateness(self) -> Error:
        if self.server.stopping:
            return _error(503, "the server is stopping and the request had not arrived as a whole; send it again")
        return _error(408, "the request took too long to arrive; send it again, smaller or over a faster line")

    # What waitress calls:

    def recv(self, size: int) -> bytes:
        self.moved = monotonic()
        return super().recv(size)

    def received(self, data: bytes) -> bool:
        if self._lingering is not None:
            self._thrown_away += len(data)
            if self._thrown_away > self.server.limits.linger_bytes:
                self.handle_close()
            return False
        if self.request is None:
            data = data.lstrip()  # empty lines between requests are allowed; waitress makes a request of each
            self._begun = monotonic()
        return super().received(data)

    def write_soon(self, data: Any) -> int:
        self.moved = monotonic()  # before the bytes count as waiting
        return super().write_soon(data)

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = super().send(data, do_close)
        if sent:
            self.moved = monotonic()
        return sent

    def handle_write(self) -> None:
        if not self.close_when_flushed:
            return super().handle_write()
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif self.connected and not self.total_outbufs_len:
            self._linger()

    def _linger(self) -> None:
        """Say that nothing more will come, and read on until the client has closed too: closing with bytes unread is a
        reset, which destroys the answer before the client has looked at it (RFC 9112, 9.6)."""
        self.close_when_flushed = False
        self.moved = self._lingering = monotonic()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            self.handle_close()


class _Server(TcpWSGIServer):
    """One listening socket."""

    channel_class = _Channel
    next_channel_cleanup = math.inf  # never: `_Channel.check` does it
    limits: Limits
    stopping = False

    @property
    def port(self) -> int:
        return int(self.effective_port)

    def close_door(self) -> None:
        """Accept those who have connected already, and nobody after them."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)  # not its trigger, which the threads need until the end


def _error(code: int, detail: str) -> Error:
    error = Error(detail)
    error.code, error.reason = code, HTTPStatus(code).phrase
    return error


def _detail(code: int, reason: str, adjustments: Adjustments) -> str:
    """A sentence for the client and the log."""
    if code == 413:
        return f"the body has more than {adjustments.max_request_body_size - 1:,} bytes; send a smaller one"
    if code == 431:
        return f"the request line and its headers have {_MAX_HEADER_BYTES:,} bytes or more; send shorter ones"
    if code == 400:
        # what waitress quotes may be a line with a key in it
        return f"the request is not HTTP as this server reads it: {reason.partition(chr(34))[0].rstrip(' .')}"
    if code == 500:
        return "this is our fault; the server's log says more"
    return reason


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
        raise ValueError(f"--host {host}: no such address ({why}); give 127.0.0.1 or one of this machine's") from error
    return list(dict.fromkeys(found))


def _connection_limit() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, (files - _SPARE_FILES) // 2))
