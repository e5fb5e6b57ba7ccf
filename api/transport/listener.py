"""The WSGI server: waitress with a graceful shutdown and limits on connections, uploads and time.

    listener = listen(application, "127.0.0.1", 8080, threads=40, max_body=20_000_000)
    listener.run()  # until listener.stop()

One thread (that of `run`) does all I/O. A request is handed to one of the others when it is complete and its response is
buffered, so slow clients hold no thread. Works with any WSGI application.
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

# Twice what browsers send with large cookies; this server sets none.
_MAX_HEADER_BYTES = 16_384
# Far more than threads: an idle connection costs only its file descriptor.
_MAX_CONNECTIONS = 1000
# At the limit, a connection that has been idle for longer is closed for a new one; the next request of others may be on
# its way.
_SPARE_SECONDS = 1.0
# File descriptors for all else than sockets and bodies (above 512 KB waitress keeps those in temporary files).
_SPARE_FILES = 100
# Incomplete bodies together: the size of 25 of the largest. Without this limit they could fill the disk.
_MAX_HELD_BODIES = 25
# Uploads of 2 MB are twice as fast as with waitress's 8 KB.
_RECEIVE_BYTES = 262_144
# How often deadlines are checked.
_TICK_SECONDS = 0.25
# How long to wait for threads at the end; those that are still busy end with the process.
_THREADS_SECONDS = 0.5
_DEFAULT_LIMITS = Limits()
# While stopping: a request on its way is still accepted, an incomplete one has a second.
_STOPPING_LIMITS = Limits(
    idle_seconds=0.25,
    request_seconds=1.0,
    slowest_rate=math.inf,
    response_seconds=2.0,
    linger_seconds=2.0,
    linger_silence_seconds=0.5,
)

_LOG = logging.getLogger("api.transport")

Application = Callable[..., Iterable[bytes]]


def host_and_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(
    application: Application, host: str, port: int, threads: int, max_body: int, limits: Limits = _DEFAULT_LIMITS
) -> "Listener":
    """A listening server; clients can connect now and are answered once `run` is called.

    port 0: any free one; threads: that run the application; max_body: bytes, of a chunked body with its framing.
    Raises ValueError if the host has no address, OSError if it or the port is not available.
    """
    sockets: dict[int, Any] = {}
    dispatcher = ThreadedTaskDispatcher()
    # waitress warns for each request that waits for a thread
    dispatcher.queue_logger = logging.getLogger("api.transport.queue")
    dispatcher.queue_logger.setLevel(logging.ERROR)
    settings = _settings(max_body)
    servers: list[_Server] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            # all addresses of a host (localhost) get the port of the first
            address = (address[0], port or (servers[0].port if servers else 0), *address[2:])
            where = (family, kind, protocol, address)
            servers.append(_Server(application, sockets, dispatcher=dispatcher, adj=settings, sockinfo=where))
            servers[-1].limits = limits
    except OSError as error:
        wasyncore.close_all(sockets)
        flag = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise OSError(
            f"cannot listen on {host_and_port(host, port)} ({error.strerror}); give another {flag}"
        ) from error
    dispatcher.set_thread_count(threads)
    return Listener(servers, sockets, dispatcher)


class Listener:
    """The server that `listen` returns. `run` can be called once."""

    def __init__(self, servers: list["_Server"], sockets: dict[int, Any], dispatcher: ThreadedTaskDispatcher) -> None:
        self._servers, self._sockets, self._dispatcher = servers, sockets, dispatcher
        self._stops = 0
        self._closed = False
        self._next_check = 0.0
        self.port: int = servers[0].port

    def stop(self) -> None:
        """End `run` after the received requests are answered; a second call ends it at once. May be called at any time,
        from signal handlers and other threads."""
        self._stops += 1
        if not self._closed:
            self._servers[0].pull_trigger()

    def run(self, stop_after: float = STOP_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        """Answer requests until `stop`, then accept no more, answer those received, and return.

        stop_after: most seconds from `stop` to the return, and half a second for threads; clock: of all deadlines.
        """
        for server in self._servers:
            server.clock = clock
        try:
            while not self._stops:
                self._close_idle()
                self._poll(_TICK_SECONDS)
            self._finish(self._now() + stop_after)
        finally:
            self._close()

    def _poll(self, timeout: float) -> None:
        """Do the I/O that is ready, for at most `timeout` seconds; check deadlines every _TICK_SECONDS."""
        wasyncore.poll2(timeout, self._sockets)
        now = self._now()
        if now >= self._next_check:
            for connection in self._connections():
                connection.check(now)
            self._limit_bodies()
            self._next_check = now + _TICK_SECONDS

    def _finish(self, deadline: float) -> None:
        now = self._now()
        for server in self._servers:
            server.stop_accepting()
            server.limits, server.stopping = _STOPPING_LIMITS, True
        for connection in self._connections():
            connection.restart_clock(now)
        self._poll(0)  # data in the sockets' buffers counts as received
        while (left := self._connections()) and self._stops < 2 and self._now() < deadline:
            self._poll(_TICK_SECONDS / 5)
        if left:
            _LOG.warning("stopped with %d connections open", len(left))

    def _close(self) -> None:
        self._closed = True  # before the trigger that `stop` pulls is closed
        for connection in self._connections():
            connection.handle_close()
        self._dispatcher.shutdown(timeout=_THREADS_SECONDS)  # type: ignore[arg-type] # any number does
        wasyncore.close_all(self._sockets)

    def _now(self) -> float:
        return self._servers[0].clock()

    def _connections(self) -> list[Connection]:
        return [connection for server in self._servers for connection in server.active_channels.values()]

    def _close_idle(self) -> None:
        """At the limit of connections, close the one that has been idle longest; waitress would only stop accepting."""
        if len(self._sockets) < self._servers[0].adj.connection_limit:
            return
        since = self._now() - _SPARE_SECONDS
        idle = [connection for connection in self._connections() if connection.idle and connection.last_byte_at < since]
        if idle:
            min(idle, key=lambda connection: connection.last_byte_at).handle_close()

    def _limit_bodies(self) -> None:
        """Refuse the largest incomplete bodies while all of them together exceed the limit."""
        arriving = sorted(self._connections(), key=lambda connection: -connection.body_bytes)
        excess = sum(connection.body_bytes for connection in arriving)
        excess -= _MAX_HELD_BODIES * self._servers[0].adj.max_request_body_size
        for connection in arriving:
            if excess <= 0:
                break
            excess -= connection.body_bytes
            connection.refuse(503, "too many uploads in progress; send the request again later")


class _Server(BoundedServer):
    """One listening socket."""

    channel_class = Connection
    next_channel_cleanup = math.inf  # type: ignore[assignment] # `Connection.check` replaces it
    active_channels: dict[int, Connection]  # type: ignore[assignment] # the stubs have one of its values
    effective_port: str  # not in the stubs

    @property
    def port(self) -> int:
        return int(self.effective_port)

    def stop_accepting(self) -> None:
        """Accept the connections that are waiting, then no more."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)  # not its trigger, which threads use until the end


def _settings(max_body: int) -> Adjustments:
    return Adjustments(
        max_request_body_size=max_body + 1,  # waitress refuses bodies of this size
        max_request_header_size=_MAX_HEADER_BYTES,
        recv_bytes=_RECEIVE_BYTES,
        connection_limit=_connection_limit(),
        # no reading while a request is processed: the end of file of a client that closed its sending side and waits
        # for the response would close the connection
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
    """The result of `socket.getaddrinfo` without duplicates. Raises ValueError."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
        raise ValueError(f"--host {host}: no such address ({why}); give 127.0.0.1 or one of this machine's") from error
    return list(dict.fromkeys(found))
