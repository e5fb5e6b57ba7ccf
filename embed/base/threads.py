"""Ordered parallel map in threads with a bounded number of results in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cache import cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], depth: int, start: Callable[[], None] | None = None
) -> Generator[Result, None, None]:
    """`work` of each item, in order, with one thread per core; at most `depth` items are running or not yet consumed.

    start: called once in each thread. When the consumer stops, waiting items are cancelled and running ones are not
    awaited: after Ctrl-C, a batch of a large model would delay the exit by many seconds.
    """
    pool = ThreadPoolExecutor(cores(), initializer=start)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
