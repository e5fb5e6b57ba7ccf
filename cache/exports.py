"""What a room offers to Python programs, imported at its first use."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def on_first_use(package: str, offers: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package that offers {name: module that has it}.

    Not imported at once: `import api` for a server must not wait for Optuna, nor a run with nothing to do for torch. The function
    raises AttributeError for another name.
    """

    def attribute(name: str) -> Any:
        if name in offers:
            return getattr(import_module(offers[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
