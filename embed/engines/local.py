"""The engine interface of the embedding job, and the engine for this machine.

An engine reads pictures, prepares and encodes them, and adds vectors to a store. `embed.engines.ray_engine` has the
other.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cache import VectorStore
from embed.base.threads import run_ahead
from embed.clip.options import EncoderRequest
from embed.pictures.hashing import read_ahead

if TYPE_CHECKING:
    from embed.clip.encoder import ClipEncoder
    from embed.engines.writing import Filled

ENGINES = ("local", "ray")
# Items in the queue of the threads.
_AHEAD = 256
Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Computes vectors for the job. device: of its encoders, as text, "" while none is loaded."""

    device: str

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of each item, in order; items are taken as they are needed."""

    def load(self) -> tuple[dict[str, Any], Path]:
        """The feature spec of its encoders, and their weights file. Raises EncoderUnavailable."""

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> "Filled":
        """Embed {key: image under `root`, or text} into `store`. Raises as `embed.engines.fill.fill`."""

    def close(self) -> None:
        """Release resources; also called after an error or Ctrl-C."""


class LocalEngine:
    """Computes on this machine's cores and its GPU, if any."""

    def __init__(self, request: EncoderRequest, device: str, say: Callable[[str], None]) -> None:
        self._request, self._wanted, self._say = request, device, say
        self._loaded: ClipEncoder | None = None
        self.device = ""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return run_ahead(work, items, _AHEAD)

    def load(self) -> tuple[dict[str, Any], Path]:
        encoder = self._encoder()
        return encoder.spec, encoder.weights

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> "Filled":
        from embed.engines.batches import Encoding  # imports torch, as below
        from embed.engines.fill import fill
        from embed.engines.prepare import preparer

        encoder = self._encoder()
        with read_ahead(root, todo.values() if kind == "image" else ()) as ahead:
            return fill(store, kind, todo, preparer(kind, encoder, ahead), Encoding.of(encoder, kind))

    def close(self) -> None:
        """Nothing to release."""

    def _encoder(self) -> "ClipEncoder":
        if self._loaded is None:
            # torch and open_clip take seconds to import; a run with nothing to do must not
            from embed.clip.encoder import load_encoder
            from embed.clip.hardware import choose_device

            device = choose_device(self._wanted)
            self.device = str(device)
            self._say(f"loading {self._request} on {device}")
            self._loaded = load_encoder(
                self._request.model, self._request.pretrained, device, self._request.options, self._request.delta
            )
        return self._loaded
