"""One client's connection: waitress's channel and parser, with limits for hostile and slow clients.

A request that does not reach the application is refused here, with problem+json, a request id and a line in the log
`api.transport`. Requests and responses have deadlines. The body of a refused request is read before the connection
closes, so that the client gets the response.
"""

import logging
import re
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any

import msgspec
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, Error

from api.http.admission import Overloaded
from api.schema import HEADERS, problem

# waitress copies the rest of the data after each chunk: 256 KB in chunks of one byte took 0.4 s.
_CHUNKED_BYTES = 8_192
# Chunked framing (lengths, extensions, trailers) may have this many bytes and an eighth of the body: chunks of 50 bytes.
_FRAMING_BYTES = 65_536
# waitress's regular expressions backtrack on addresses and runs of blanks while they hold the GIL: 20 s for a request of
# 16 KB. What passes these two they match in linear time.
_FIRST_LINE = re.compile(rb"[^ ]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
# RFC 9112, 5.2 allows refusing folded lines; no client sends 64 blanks in a row.
_FOLDS_AND_BLANKS = re.compile(rb"\r\n[ \t]|[ \t]{64}")

_LOG = logging.getLogger("api.transport")


@dataclass(frozen=True)
class Limits:
    """Limits of one connection, in seconds and bytes."""

    # Above the 60 s of load balancers, which must close first, or requests would meet a closing connection.
    idle_seconds: float = 75.0
    # From a request's first byte to its last, plus a second for each `slowest_rate` bytes received. 4 MB at 40 kB/s take
    # 100 s of 230 s allowed; a byte every ten seconds is refused after 30 s.
    request_seconds: float = 30.0
    slowest_rate: float = 20_000.0
    # Without receiving a byte of the response.
    response_seconds: float = 30.0
    # Reading after a refusal: many clients read the response only after sending the whole request.
    linger_seconds: float = 30.0
    linger_silence_seconds: float = 5.0
    linger_bytes: float = 250_000_000


class _RefusalTask(ErrorTask):
    """The response to a request that does not reach the application."""

    channel: "Connection"
    request: HTTPRequestParser  # type: ignore[assignment] # the stubs have its `error` here
    response_headers: list[tuple[str, str]]

    def execute(self) -> None:
        error, request_id = self.request.error, uuid.uuid4().hex
        assert error is not None  # waitress makes this task for errors only
        # waitress answers 501 to unknown transfer encodings, which are errors of the client
        code, title = (400, "Bad Request") if error.code == 501 else (error.code, error.reason)
        detail = _detail(code, error.body, self.channel.adj)
        body = msgspec.json.encode(problem(title, code, detail, request_id))
        _LOG.info("refused %d from %s: %s", code, self.channel.addr[0], detail, extra={"request_id": request_id})
        self.status = f"{code} {title}"
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("X-Request-ID", request_id),
            *HEADERS.items(),
        ]
        if code == 503:
            self.response_headers.append(("Retry-After", str(Overloaded.retry_after)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def _detail(code: int, reason: str, adjustments: Adjustments) -> str:
    """The detail for the client and the log."""
    if code == 413:
        return f"the body has more than {adjustments.max_request_body_size - 1:,} bytes; send a smaller one"
    if code == 431:
        limit = adjustments.max_request_header_size
        return f"the request line and its headers have {limit:,} bytes or more; send shorter ones"
    if code == 400:
        # without what waitress quotes, which may be a header with an API key
        return f"the request is not valid HTTP: {reason.partition(chr(34))[0].rstrip(' .')}"
    if code == 500:
        return "an error of the server; its log says more"
    return reason


class _ApplicationTask(WSGITask):
    channel: "Connection"

    def build_response_header(self) -> bytes:
        if self.channel.server.stopping:
            self.set_close_on_finish()
        return super().build_response_header()


class _Parser(HTTPRequestParser):
    """Parses one request. Pipelined requests in the same read are dropped, and the connection closes after the response:
    no client in use pipelines, and thousands of responses would be held in memory."""

    headers: dict[str, str]
    path = ""  # waitress logs it; a request with an invalid first line has none

    def received(self, data: bytes) -> int:
        used = len(data)
        try:
            used = super().received(data[:_CHUNKED_BYTES] if self.chunked else data)
        except ValueError:  # not caught by waitress: addresses like http://[, a Content-Length of 5,000 digits
            self.error = BadRequest("Start line or Content-Length is invalid")
        if self._has_tiny_chunks():
            self.error = BadRequest("the chunks are too small for their content")
        if not self.completed and not self.error:
            return used
        # or waitress would send `100 Continue` to a request that is refused or has no body, and wait
        self.completed, self.expect_continue = True, False
        if data[used:].strip():
            self.headers["CONNECTION"] = "close"  # tells the client to send the rest again
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        first_line, _, fields = header_plus.partition(b"\r\n")
        if not _FIRST_LINE.fullmatch(first_line.rstrip()):
            raise ParsingError("Start line is invalid")
        if _FOLDS_AND_BLANKS.search(fields):
            raise ParsingError("A header line is folded or padded with blanks")
        super().parse_header(header_plus)

    def _has_tiny_chunks(self) -> bool:
        if not isinstance(self.body_rcv, ChunkedReceiver):
            return False
        body = len(self.body_rcv)
        return self.body_bytes_received - body > _FRAMING_BYTES + body / 8


class BoundedServer(TcpWSGIServer):
    """A server as `Connection` needs it."""

    limits: Limits
    clock: Callable[[], float]  # as `time.monotonic`
    stopping = False


class Connection(HTTPChannel):
    """waitress's channel. Public methods are for the I/O thread."""

    server: BoundedServer
    requests: list[HTTPRequestParser]
    # not in the stubs
    requests_lock: Lock
    _flush_some: Callable[[], bool]
    _flush_some_if_lockable: Callable[[], None]
    _flush_exception: Callable[[Callable[[], object]], object]

    task_class = _ApplicationTask
    error_task_class = _RefusalTask
    parser_class = _Parser

    def __init__(self, server: BoundedServer, *more: Any, **kwargs: Any) -> None:
        self.last_byte_at = server.clock()  # of the last byte in either direction
        self._started = 0.0  # of the first byte of `request`
        self._lingering: float | None = None  # since this time
        self._discarded = 0
        super().__init__(server, *more, **kwargs)

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return not (
            self.requests  # first: a thread that finishes a request sets the others before it empties this
            or self.request
            or self.total_outbufs_len
            or self.close_when_flushed
            or self._lingering
        )

    @property
    def body_bytes(self) -> int:
        """Received bytes of a body that is not complete."""
        return self.request.body_bytes_received if self.request else 0

    def check(self, now: float) -> None:
        """Refuse the request or close the connection after a deadline. waitress's own clean-up waits until the socket is
        writable, so it never closes a client that does not read, and ignores slow senders."""
        limits, silence = self.server.limits, now - self.last_byte_at
        if self._lingering:
            overdue = now - self._lingering > limits.linger_seconds or silence > limits.linger_silence_seconds
        elif self.total_outbufs_len:
            overdue = silence > limits.response_seconds
        else:
            overdue = self.idle and silence > limits.idle_seconds
        if overdue:
            self.handle_close()
        elif self.request and self._is_late(self.request, now):
            self._refuse_late()

    def refuse(self, code: int, detail: str) -> None:
        """Answer the incomplete request with this status and detail."""
        error = Error(detail)
        error.code, error.reason = code, HTTPStatus(code).phrase
        with self.requests_lock:
            request, self.request = self.request, None
            assert request is not None  # checked by the callers
            request.error, request.completed = error, True
            self.requests.append(request)
            self.server.add_task(self)  # type: ignore[arg-type] # the stubs expect a task

    def restart_clock(self, now: float) -> None:
        """Restart the deadlines of the request and of lingering."""
        self._started = now
        self._lingering = self._lingering and now

    def _is_late(self, request: HTTPRequestParser, now: float) -> bool:
        arrived = request.header_bytes_received + request.body_bytes_received
        limits = self.server.limits
        return now - self._started > limits.request_seconds + arrived / limits.slowest_rate

    def _refuse_late(self) -> None:
        if self.server.stopping:
            self.refuse(503, "the server is stopping and the request was not complete; send it again")
        else:
            self.refuse(408, "the request took too long to arrive; send a smaller one, or use a faster connection")

    # Called by waitress:

    def recv(self, size: int) -> bytes:
        self.last_byte_at = self.server.clock()
        return super().recv(size)

    def received(self, data: bytes) -> bool:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > self.server.limits.linger_bytes:
                self.handle_close()
            return False
        if self.request is None:
            data = data.lstrip()  # empty lines between requests are allowed, but waitress makes a request of each
            self._started = self.server.clock()
        return super().received(data)

    def write_soon(self, data: Any) -> int:
        self.last_byte_at = self.server.clock()  # before `total_outbufs_len` grows
        return super().write_soon(data)

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = super().send(data, do_close)
        if sent:
            self.last_byte_at = self.server.clock()
        return sent

    def handle_write(self) -> None:
        # do not block: a thread that is still responding holds the lock while it adds to the buffer
        self._flush_exception(self._flush_some_if_lockable if self.requests else self._flush_some)
        if self.will_close:
            self.handle_close()
        elif self.close_when_flushed and self.connected and not self.total_outbufs_len:
            self._linger()

    def _linger(self) -> None:
        """Lingering close: shut down the sending side and read until the client closes. Closing with unread bytes sends a
        reset, which can destroy the response before the client reads it (RFC 9112, 9.6)."""
        self.close_when_flushed = False
        self.last_byte_at = self._lingering = self.server.clock()
        assert self.socket is not None  # set until the connection closes
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # already disconnected
            self.handle_close()
