"""Work done in threads ahead of whoever takes the results: in order, with a bounded number of them in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cache import cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], depth: int, start: Callable[[], None] | None = None
) -> Iterator[Result]:
    """`work` of each item, in their order, by one thread a core; at most `depth` are under way or not yet taken.

    start: called once in each thread. When the caller stops taking, what waits is cancelled and what runs is left
    to itself: after Ctrl-C, a batch of a large model would keep the way out for many seconds.
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
