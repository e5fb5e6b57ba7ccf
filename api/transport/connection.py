"""One client's connection: waitress's channel and parser, and what they lack against hostile and slow clients.

A request that the application never sees is refused here: problem+json, a request id, one line in the log `api.transport`.
What is too slow is cut, and a refused client is heard out, so that it sees why. `api.transport` makes these.
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
from api.schema import HEADERS, Problem

# waitress copies all that follows each chunk: 256 KB in chunks of one byte stopped the server for 0.4 s.
_CHUNKED_BYTES = 8_192
# What lengths, extensions and trailers of chunks may take beside an eighth of the body: nobody's chunks are below 50 bytes.
_FRAMING_BYTES = 65_536
# waitress's own expressions try every way to split an address or a run of blanks, with the interpreter locked: a request
# of 16 KB stopped everything for 20 s and more. What passes these two, they match at once.
_FIRST_LINE = re.compile(rb"[^ ]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
# RFC 9112, 5.2 lets a server refuse folded lines; nobody writes 64 blanks in a row.
_FOLDS_AND_BLANKS = re.compile(rb"\r\n[ \t]|[ \t]{64}")

_LOG = logging.getLogger("api.transport")


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


class _RefusalTask(ErrorTask):
    """Answers a request that the application does not see."""

    channel: "Connection"
    request: HTTPRequestParser  # type: ignore[assignment] # the stubs have its `error` here
    response_headers: list[tuple[str, str]]

    def execute(self) -> None:
        error, request_id = self.request.error, uuid.uuid4().hex
        assert error is not None  # or the application would see it
        # waitress says 501 to encodings that it does not know, but the request is what is wrong
        code, title = (400, "Bad Request") if error.code == 501 else (error.code, error.reason)
        detail = _detail(code, error.body, self.channel.adj)
        body = msgspec.json.encode(Problem("about:blank", title, code, detail, request_id))
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
    """A sentence for the client and the log."""
    if code == 413:
        return f"the body has more than {adjustments.max_request_body_size - 1:,} bytes; send a smaller one"
    if code == 431:
        limit = adjustments.max_request_header_size
        return f"the request line and its headers have {limit:,} bytes or more; send shorter ones"
    if code == 400:
        # what waitress quotes may be a line with a key in it
        return f"the request is not HTTP as this server reads it: {reason.partition(chr(34))[0].rstrip(' .')}"
    if code == 500:
        return "this is our fault; the server's log says more"
    return reason


class _ApplicationTask(WSGITask):
    channel: "Connection"

    def build_response_header(self) -> bytes:
        if self.channel.server.stopping:
            self.set_close_on_finish()
        return super().build_response_header()


class _Parser(HTTPRequestParser):
    """One request. Whatever follows it in the same read is not a request of ours: nobody's client sends a second one
    before the first answer, and thousands of them in one read would be thousands of answers to keep."""

    headers: dict[str, str]
    path = ""  # waitress logs it, and a request with a broken first line has none

    def received(self, data: bytes) -> int:
        used = len(data)
        try:
            used = super().received(data[:_CHUNKED_BYTES] if self.chunked else data)
        except ValueError:  # not caught by waitress: an address like http://[ and a Content-Length of 5,000 digits
            self.error = BadRequest("Start line or Content-Length is invalid")
        if self._has_tiny_chunks():
            self.error = BadRequest("the chunks are too small for what they bring")
        if not self.completed and not self.error:
            return used
        # waitress would send `100 Continue` for a request that is refused or has no body, and wait
        self.completed, self.expect_continue = True, False
        if data[used:].strip():
            self.headers["CONNECTION"] = "close"  # so that the client knows to send the rest again
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
    """What a Connection asks of its server."""

    limits: Limits
    clock: Callable[[], float]  # as `time.monotonic`
    stopping = False


class Connection(HTTPChannel):
    """waitress's channel. Public methods are for the thread that moves the bytes."""

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
        self.moved = server.clock()  # the last byte, in either direction
        self._begun = 0.0  # the first byte of `request`
        self._lingering: float | None = None  # since when
        self._thrown_away = 0
        super().__init__(server, *more, **kwargs)

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

    @property
    def body_bytes(self) -> int:
        """What has arrived of a body that is still arriving."""
        return self.request.body_bytes_received if self.request else 0

    def check(self, now: float) -> None:
        """Refuse or close it if it has taken too long. waitress's own clean-up asks for the next chance to write, which a
        client that takes no answer never gives, and forgets senders that trickle."""
        limits, silence = self.server.limits, now - self.moved
        if self._lingering:
            overdue = now - self._lingering > limits.linger_seconds or silence > limits.linger_silence_seconds
        elif self.total_outbufs_len:
            overdue = silence > limits.answer_seconds
        else:
            overdue = self.idle and silence > limits.idle_seconds
        if overdue:
            self.handle_close()
        elif self.request and self._is_late(self.request, now):
            self._refuse_late()

    def refuse(self, code: int, detail: str) -> None:
        """Answer the half-received request with this status and sentence."""
        error = Error(detail)
        error.code, error.reason = code, HTTPStatus(code).phrase
        with self.requests_lock:
            request, self.request = self.request, None
            assert request is not None  # who calls this has looked
            request.error, request.completed = error, True
            self.requests.append(request)
            self.server.add_task(self)  # type: ignore[arg-type] # in the stubs, waitress queues its tasks and not these

    def restart_clock(self, now: float) -> None:
        """What has begun may take its time again."""
        self._begun = now
        self._lingering = self._lingering and now

    def _is_late(self, request: HTTPRequestParser, now: float) -> bool:
        arrived = request.header_bytes_received + request.body_bytes_received
        limits = self.server.limits
        return now - self._begun > limits.request_seconds + arrived / limits.slowest_rate

    def _refuse_late(self) -> None:
        if self.server.stopping:
            self.refuse(503, "the server is stopping and the request had not arrived as a whole; send it again")
        else:
            self.refuse(408, "the request took too long to arrive; send it again, smaller or over a faster line")

    # What waitress calls:

    def recv(self, size: int) -> bytes:
        self.moved = self.server.clock()
        return super().recv(size)

    def received(self, data: bytes) -> bool:
        if self._lingering:
            self._thrown_away += len(data)
            if self._thrown_away > self.server.limits.linger_bytes:
                self.handle_close()
            return False
        if self.request is None:
            data = data.lstrip()  # empty lines between requests are allowed; waitress makes a request of each
            self._begun = self.server.clock()
        return super().received(data)

    def write_soon(self, data: Any) -> int:
        self.moved = self.server.clock()  # before the bytes count as waiting
        return super().write_soon(data)

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = super().send(data, do_close)
        if sent:
            self.moved = self.server.clock()
        return sent

    def handle_write(self) -> None:
        # a thread that is still answering holds the lock while it adds to the buffer
        self._flush_exception(self._flush_some_if_lockable if self.requests else self._flush_some)
        if self.will_close:
            self.handle_close()
        elif self.close_when_flushed and self.connected and not self.total_outbufs_len:
            self._linger()

    def _linger(self) -> None:
        """Say that nothing more will come, and read on until the client has closed too: closing with bytes unread is a
        reset, which destroys the answer before the client has looked at it (RFC 9112, 9.6)."""
        self.close_when_flushed = False
        self.moved = self._lingering = self.server.clock()
        assert self.socket is not None  # since it was made
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            self.handle_close()
