"""Checkpoint of an interrupted training: one safetensors file, replaced after each epoch; nothing is pickled.

Values stand in its header as JSON.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cache import write_bytes_atomically


class Checkpoint:
    """A file in `folder`. identity: JSON values of the training; one with another identity does not resume from the file;
    number: of the training, among several."""

    def __init__(self, folder: Path, identity: dict[str, Any], number: int = 0) -> None:
        self.file = folder / f"progress-{number}.safetensors"
        self._identity = json.dumps(identity, sort_keys=True)

    def write(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace the file. values: JSON values. Raises OSError."""
        header = {"identity": self._identity, "values": json.dumps(values)}
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes_atomically(self.file, save(state, header))

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last tensors and values written; None if the file is missing, damaged or of another training."""
        try:
            with safe_open(self.file, "pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != self._identity:
                    return None
                names = file.keys()  # the file itself is not iterable
                return {name: file.get_tensor(name) for name in names}, json.loads(header["values"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def discard(self) -> None:
        """Remove the file, and the folder if it is then empty."""
        self.file.unlink(missing_ok=True)
        if self.file.parent.is_dir() and not any(self.file.parent.iterdir()):
            self.file.parent.rmdir()
