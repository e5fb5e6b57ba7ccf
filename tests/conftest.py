"""What holds for the whole run: memory between the files, and the closing line on what was skipped."""

import ctypes
import gc
from collections import Counter
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def freed() -> Iterator[None]:
    """Memory goes back to the system after each file: glibc keeps what is freed, of all models together 5 GB."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's own
        trim(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    if skipped:
        said = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        terminalreporter.write_line(f"skipped: {said}")
