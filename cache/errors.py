"""Whose error it is: a sentence for the user, or a mistake of this program, which wants its traceback.

Our own code raises ValueError with a sentence that says what to put right. A library raises it for arguments that we
should not have given; shown as a sentence, such a mistake would stay hidden.
"""

import sys
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = "site-packages"


def raised_here(error: BaseException) -> bool:
    """Whether a line of this program raised it, and not a library's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:  # from another process, which has asked already
        return True
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    return file.is_relative_to(_ROOT) and _LIBRARIES not in file.parts


def refuse(error: ValueError | OSError, words: Callable[[str], str] = str) -> int:
    """Say the error on stderr, in these words; the exit code. Raises a ValueError that a library raised."""
    if isinstance(error, ValueError) and not raised_here(error):
        raise error
    print(f"error: {words(str(error))}", file=sys.stderr)
    return 2
