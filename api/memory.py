"""What a server tells Python and glibc's malloc, so that its memory stays flat; malloc only where there is glibc."""

import ctypes
import gc

# From <malloc.h>.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
# Pictures above a megapixel. Left to itself malloc raises this to 32 MB at the first large picture, and then every thread
# keeps such a piece for itself.
_LARGE = 4_000_000
# Forty request threads would have sixteen, each as large as the largest bodies that it has seen.
_ARENAS = 4


def keep_flat() -> None:
    """Have large pieces of memory go back to the system as soon as they are free, and threads share the rest. Before
    they start."""
    _call("mallopt", _MMAP_THRESHOLD, _LARGE)
    _call("mallopt", _ARENA_MAX, _ARENAS)


def settle() -> None:
    """After loading: give back what is free (the weights' first copies, a quarter of what the process takes), and look
    for garbage again, which `python -m api` leaves off until then."""
    _call("malloc_trim", 0)
    gc.enable()


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
