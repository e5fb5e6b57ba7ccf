"""What a training needs to go on after it was stopped: one safetensors file, replaced after each epoch.

Numbers and words stand in its header, as JSON; nothing is pickled. It knows names and tensors, not what they are.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cache import write_bytes_atomically


class Checkpoint:
    """The file in `folder`; identity: what the training is of, since another one does not go on from here; number: which of
    several it is."""

    def __init__(self, folder: Path, identity: dict[str, Any], number: int = 0) -> None:
        self.file = folder / f"progress-{number}.safetensors"
        self._identity = json.dumps(identity, sort_keys=True)

    def write(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace what there is. values: as JSON. Raises OSError."""
        header = {"identity": self._identity, "values": json.dumps(values)}
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes_atomically(self.file, save(state, header))

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `write` wrote last; None where there is nothing, or that of another training, or a damaged file."""
        try:
            with safe_open(self.file, "pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != self._identity:
                    return None
                names = file.keys()  # the file itself is no iterable
                return {name: file.get_tensor(name) for name in names}, json.loads(header["values"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def discard(self) -> None:
        """Remove it, and its folder where that is empty then."""
        self.file.unlink(missing_ok=True)
        if self.file.parent.is_dir() and not any(self.file.parent.iterdir()):
            self.file.parent.rmdir()
