"""Tell user errors, reported in one sentence, from bugs, which keep their traceback.

Our own code raises ValueError with a message that says what to fix. A ValueError raised by a library is a bug of ours.
"""

import select
import sys
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = "site-packages"


def raised_here(error: BaseException) -> bool:
    """Whether our own code raised it, rather than a library."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:  # raised in another process, which has checked it
        return True
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    return file.is_relative_to(_ROOT) and _LIBRARIES not in file.parts


def refuse(error: ValueError | OSError, words: Callable[[str], str] = str) -> int:
    """Print `words(message)` on stderr and return exit code 2. Re-raises a ValueError that a library raised, and the error of
    printing to a closed pipe."""
    if isinstance(error, ValueError) and not raised_here(error):
        raise error
    if isinstance(error, BrokenPipeError) and reader_gone():
        raise error
    print(f"error: {words(str(error))}", file=sys.stderr)
    return 2


def reader_gone() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
