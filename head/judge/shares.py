"""A share as people type it on a command line."""

import argparse

# A share from here on is a percentage: 1.5 might be a slip, and 5 hardly anyone's target.
_PERCENT = 10


def share_of(text: str) -> float:
    """A share as people write it: 0.9, 90 or 90%."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.9, 90 or 90%, got {text!r}") from None
    return number / 100 if text.endswith("%") or number >= _PERCENT else number
