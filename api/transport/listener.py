"""The HTTP server under the application: waitress, with an orderly end and bounds on what clients may take.

    listener = listen(application, "127.0.0.1", 8080, threads=40, max_body=20_000_000)
    listener.run()  # until listener.stop()

It takes any WSGI application and knows nothing of Flask or memes. One thread (that of `run`) moves all bytes, so that a
client holds one of the others only while the application works for it: a request is handed over when it is there as a
whole, an answer is taken back into a buffer. `python -m api serve` uses it.
"""

import errno
import logging
import math
import resource
import socket
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from api.transport.connection import BoundedServer, Connection, Limits

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
# How often clocks are looked at.
_TICK_SECONDS = 0.25
# After the last answer only threads that the application keeps are left, and they do not outlive the process.
_THREADS_SECONDS = 0.5
_USUAL_LIMITS = Limits()
# While stopping: a request that is on its way still gets in, a half-received one has a second.
_LAST_LIMITS = Limits(
    idle_seconds=0.25,
    request_seconds=1.0,
    slowest_rate=math.inf,
    answer_seconds=2.0,
    linger_seconds=2.0,
    linger_silence_seconds=0.5,
)

_LOG = logging.getLogger("api.transport")

Application = Callable[..., Iterable[bytes]]


def listen(
    application: Application, host: str, port: int, threads: int, max_body: int, limits: Limits = _USUAL_LIMITS
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
    settings = _settings(max_body)
    servers: list[_Server] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            # of several addresses (localhost), all have the port that the first was given
            address = (address[0], port or (servers[0].port if servers else 0), *address[2:])
            where = (family, kind, protocol, address)
            servers.append(_Server(application, sockets, dispatcher=dispatcher, adj=settings, sockinfo=where))
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

    def run(self, stop_after: float = STOP_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        """Answer until `stop`, then close the door, answer what has been received, and return: at most `stop_after`
        seconds (and half a second for threads) after `stop`, whatever is still at work then. clock: what the seconds of
        all limits are read from."""
        for server in self._servers:
            server.clock = clock
        try:
            while not self._stops:
                self._make_room()
                self._turn(_TICK_SECONDS)
            self._finish(self._now() + stop_after)
        finally:
            self._close()

    def _turn(self, timeout: float) -> None:
        """Move what can be moved; from time to time, see who takes too long."""
        wasyncore.poll2(timeout, self._sockets)
        now = self._now()
        if now >= self._next_check:
            for connection in self._connections():
                connection.check(now)
            self._bound_bodies()
            self._next_check = now + _TICK_SECONDS

    def _finish(self, deadline: float) -> None:
        now = self._now()
        for server in self._servers:
            server.close_door()
            server.limits, server.stopping = _LAST_LIMITS, True
        for connection in self._connections():
            connection.restart_clock(now)
        self._turn(0)  # what lies in the sockets' buffers has been received as well
        while (left := self._connections()) and self._stops < 2 and self._now() < deadline:
            self._turn(_TICK_SECONDS / 5)
        if left:
            _LOG.warning("stopped with %d connections open", len(left))

    def _close(self) -> None:
        self._closed = True  # before the trigger goes that `stop` pulls
        for connection in self._connections():
            connection.handle_close()
        self._dispatcher.shutdown(timeout=_THREADS_SECONDS)  # type: ignore[arg-type] # any number does
        wasyncore.close_all(self._sockets)

    def _now(self) -> float:
        return self._servers[0].clock()

    def _connections(self) -> list[Connection]:
        return [connection for server in self._servers for connection in server.active_channels.values()]

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its next request, when there are too many: waitress would
        accept none until one of them went by itself."""
        if len(self._sockets) < self._servers[0].adj.connection_limit:
            return
        since = self._now() - _SPARE_SECONDS
        idle = [connection for connection in self._connections() if connection.idle and connection.moved < since]
        if idle:
            min(idle, key=lambda connection: connection.moved).handle_close()

    def _bound_bodies(self) -> None:
        """Refuse the largest of the half-received bodies when all of them together are too much."""
        arriving = sorted(self._connections(), key=lambda connection: -connection.body_bytes)
        excess = sum(connection.body_bytes for connection in arriving)
        excess -= _HELD_BODIES * self._servers[0].adj.max_request_body_size
        for connection in arriving:
            if excess <= 0:
                break
            excess -= connection.body_bytes
            connection.refuse(503, "too many uploads are under way; send it again in a moment")


class _Server(BoundedServer):
    """One listening socket."""

    channel_class = Connection
    next_channel_cleanup = math.inf  # type: ignore[assignment] # never: `Connection.check` does it
    active_channels: dict[int, Connection]  # type: ignore[assignment] # the stubs have one of its values
    effective_port: str  # not in the stubs

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


def _settings(max_body: int) -> Adjustments:
    return Adjustments(
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


def _connection_limit() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, (files - _SPARE_FILES) // 2))


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    """What `socket.getaddrinfo` returns, without its repetitions. Raises ValueError."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
        raise ValueError(f"--host {host}: no such address ({why}); give 127.0.0.1 or one of this machine's") from error
    return list(dict.fromkeys(found))
