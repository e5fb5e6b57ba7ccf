"""Parse a share from the command line."""

import argparse

# Numbers from here on are percentages; 1.5 is probably a mistake and is refused later.
_PERCENT = 10


def share_of(text: str) -> float:
    """0.9, 90 or 90% -> 0.9. Raises ArgumentTypeError for anything else."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.9, 90 or 90%, got {text!r}") from None
    return number / 100 if text.endswith("%") or number >= _PERCENT else number
