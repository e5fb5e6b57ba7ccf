"""Settings of glibc's malloc and of Python's garbage collector that keep a server's memory flat. Without glibc: none."""

import ctypes
import gc

# From <malloc.h>.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
# Pictures above a megapixel. By default malloc raises this to 32 MB after the first large picture, and each thread keeps
# a free block of that size.
_LARGE = 4_000_000
# The default is 8 per core, each as large as the largest bodies that its threads have received.
_ARENAS = 4


def configure_malloc() -> None:
    """Return large blocks to the system when freed, and limit the arenas of threads. To call before they start."""
    _call("mallopt", _MMAP_THRESHOLD, _LARGE)
    _call("mallopt", _ARENA_MAX, _ARENAS)


def trim_memory() -> None:
    """After loading: return free memory (a quarter of the process) and enable the garbage collector, which `api.__main__`
    disables."""
    _call("malloc_trim", 0)
    gc.enable()


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
