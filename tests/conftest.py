"""What holds for the whole run: what becomes of freed memory, and the closing lines on memory and on skipped tests."""

import gc
import resource
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from api.memory import configure_malloc, trim_memory


def pytest_configure() -> None:
    """As the server does. Left to itself malloc keeps the weights of every model that the tests load: 7 GB in the end."""
    configure_malloc()


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Python does not see how large a tensor is, and leaves those in cycles for long."""
    yield
    gc.collect()
    trim_memory()


def pytest_collection_finish() -> None:
    """What the tests import stays: collections need not look at it, which takes a third of a second each."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB, on a Mac in bytes
    terminalreporter.write_line(f"peak memory: {peak / (1e9 if sys.platform == 'darwin' else 1e6):.1f} GB")
    skipped = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    if skipped:
        said = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        terminalreporter.write_line(f"skipped: {said}")
