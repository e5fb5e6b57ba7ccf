"""Closed-loop HTTP load generator: each client waits for its response before the next request.

One process on 127.0.0.1, keep-alive connections, prebuilt messages: it shares the cores with the measured server, so it
does as little as possible (`client_cores` is its share). After a 503 a client waits `Retry-After` seconds and retries.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embed.data.dataset import read_dataset

_HOST = "127.0.0.1"
_BOUNDARY = "a-boundary-that-stands-in-no-picture"
_PERCENTILES = (50, 95, 99)
_BUSY = 503
# Status of a request whose connection ended without a response.
LOST = 0
# Timeout in seconds for responses after the end of the load.
_PATIENCE_S = 60.0
# Positions of the repeats among ten messages, spread evenly over the stream.
_REPEATS = (3, 6, 9)
_OF = 10

Message = Sequence[bytes]


class Meme(NamedTuple):
    """A picture's bytes and the text on it."""

    data: bytes
    text: str


class Answer(NamedTuple):
    """A response. number: of the request; started: perf_counter; status: of HTTP, or LOST; retry_after: seconds."""

    number: int
    started: float
    seconds: float
    status: int
    retry_after: float | None
    body: bytes


@dataclass(frozen=True)
class Measured:
    """All responses. began: perf_counter; seconds: until the last response; cpu: CPU seconds of this process."""

    began: float
    seconds: float
    cpu: float
    answers: list[Answer]

    def ok(self) -> list[Answer]:
        """The responses with status 200, in the order of the requests."""
        return sorted(answer for answer in self.answers if answer.status == 200)

    def figures(self) -> dict[str, Any]:
        """Throughput in requests/s until the last response, and latency in ms."""
        good = [answer.seconds for answer in self.answers if answer.status == 200]
        return {
            "requests_per_s": round(len(good) / self.seconds, 2),
            **percentiles(good),
            "answers": {str(status): n for status, n in sorted(Counter(a.status for a in self.answers).items())},
            "client_cores": round(self.cpu / self.seconds, 3),
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and maximum, in ms; None without responses."""
    names = [*(f"p{percent}_ms" for percent in _PERCENTILES), "max_ms"]
    if not seconds:
        return dict.fromkeys(names)
    values = np.percentile(seconds, [*_PERCENTILES, 100]) * 1000
    return dict(zip(names, values.round(2).tolist(), strict=True))


def read_memes(data: Path, seed: int = 0) -> list[Meme]:
    """Every usable meme of a data set, shuffled, so that large pictures are spread over the stream."""
    root, memes = read_dataset(data)
    found = [Meme((root / meme.image).read_bytes(), meme.text) for meme in memes if not meme.problem]
    random.Random(seed).shuffle(found)
    return found


def message(meme: Meme, variant: str = "") -> Message:
    """A multipart POST /predict, as a browser sends a form, as a list of buffers.

    variant: suffix of text and file (decoders ignore it), which makes a distinct meme of the same cost.
    """
    text = f"{meme.text} {variant}" if variant else meme.text
    before = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{text}\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="meme"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    after = f"{variant}\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(before) + len(meme.data) + len(after)}\r\n\r\n"
    ).encode()
    return head + before, meme.data, after


def in_turn(memes: Sequence[Meme]) -> Iterator[Message]:
    """The memes in an endless cycle, for servers without a cache."""
    return itertools.cycle([message(meme) for meme in memes])


def with_repeats(memes: Sequence[Meme], seed: int = 0) -> Iterator[Message]:
    """Endless; three of ten messages repeat a uniformly chosen earlier one, the others are new."""
    choose = random.Random(seed)
    seen: list[tuple[Meme, str]] = []
    for number in itertools.count():
        if number % _OF in _REPEATS:
            yield message(*choose.choice(seen))
        else:
            seen.append((memes[len(seen) % len(memes)], f"{len(seen):08x}"))
            yield message(*seen[-1])


def ask(port: int, messages: Iterable[Message], clients: int, seconds: float = 0.0) -> Measured:
    """Send `messages` by `clients` concurrent clients until they run out or `seconds` (0: no limit) are over.

    Waits for the last responses. Raises TimeoutError for a server that does not respond.
    """
    return asyncio.run(_ask(port, enumerate(messages), clients, seconds))


async def _ask(port: int, numbered: Iterator[tuple[int, Message]], clients: int, seconds: float) -> Measured:
    answers: list[Answer] = []
    began, cpu = time.perf_counter(), time.process_time()
    until = began + seconds if seconds else float("inf")
    async with asyncio.timeout(seconds + _PATIENCE_S):
        await asyncio.gather(*(_client(port, numbered, until, answers) for _ in range(clients)))
    return Measured(began, time.perf_counter() - began, time.process_time() - cpu, answers)


async def _client(port: int, numbered: Iterator[tuple[int, Message]], until: float, answers: list[Answer]) -> None:
    """One client; ends with the stream, at the time limit, or when the server stops listening."""
    connection = _Connection(port)
    try:
        while time.perf_counter() < until and (item := next(numbered, None)):
            answers.append(await connection.exchange(*item))
            while answers[-1].status == _BUSY and time.perf_counter() < until:
                await asyncio.sleep(answers[-1].retry_after or 0)
                answers.append(await connection.exchange(*item))
    except ConnectionRefusedError:
        return
    finally:
        connection.close()


class _Connection:
    """A keep-alive connection, reopened after the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, number: int, message: Message) -> Answer:
        """Send a request and wait for its response. Raises ConnectionRefusedError."""
        started = time.perf_counter()
        try:
            self._streams = self._streams or await asyncio.open_connection(_HOST, self._port)
            reader, writer = self._streams
            writer.writelines(message)
            status, length, retry_after, closes = parse_head(await reader.readuntil(b"\r\n\r\n"))
            body = await reader.readexactly(length)
        except ConnectionRefusedError:
            raise
        except (ConnectionError, asyncio.IncompleteReadError):
            status, retry_after, closes, body = LOST, None, True, b""
        if closes:
            self.close()
        return Answer(number, started, time.perf_counter() - started, status, retry_after, body)

    def close(self) -> None:
        """Close the connection, if open."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


def parse_head(head: bytes) -> tuple[int, int, float | None, bool]:
    """Status, length of the body in bytes, seconds of Retry-After, and whether the connection closes.

    Raises ValueError for a response without a Content-Length, which none of the measured servers sends.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(":", 1) for line in lines if line)
    if "content-length" not in fields:
        raise ValueError(f"expected an answer with a Content-Length, got {head[:200]!r}")
    later = fields.get("retry-after")
    return (
        int(first.split(" ", 2)[1]),
        int(fields["content-length"]),
        None if later is None else float(later),
        fields.get("connection", "").strip() == "close",
    )
