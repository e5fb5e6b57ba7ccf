"""Memory that runs out, on a processor and on a GPU: how it is recognised, and the error for the user."""

# torch's messages: of its CPU allocator (a RuntimeError), of CUDA's runtime and of CUDA's libraries.
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class TooLittleMemory(ValueError):
    """The memory is too small for the encoder, or for the smallest batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory ran out, as opposed to a bad picture or an operation that the device lacks."""
    if isinstance(error, RuntimeError):
        return any(message in str(error) for message in _MESSAGES)
    return isinstance(error, MemoryError)
