"""Where the embedding job's work is done: what the job wants of an engine, and the one that is this machine.

`embed.engines.ray_engine` is the other one. An engine reads pictures, prepares and encodes; it adds to a store, and knows
nothing of tables, labels or indexes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cache import VectorStore
from embed.base.threads import run_ahead
from embed.clip.options import EncoderRequest

if TYPE_CHECKING:
    from embed.clip.encoder import ClipEncoder
    from embed.engines.fill import Filled

ENGINES = ("local", "ray")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """What the job wants. device: where its encoders run, in words, "" while none has been loaded."""

    device: str

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`work` of each item, in their order."""

    def load(self) -> tuple[dict[str, Any], Path]:
        """The spec of what its encoders make, and the file of their weights. Raises EncoderUnavailable."""

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> "Filled":
        """Embed {key: image under `root`, or text} into `store`. Raises EncoderUnavailable, TooLittleMemory, OSError."""

    def close(self) -> None:
        """Let go of what it holds; after an error or Ctrl-C too."""


class LocalEngine:
    """This machine: its cores, and its GPU where it has one."""

    def __init__(self, request: EncoderRequest, device: str, say: Callable[[str], None]) -> None:
        self._request, self._wanted, self._say = request, device, say
        self._loaded: ClipEncoder | None = None
        self.device = ""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return run_ahead(work, items, len(items) + 1)

    def load(self) -> tuple[dict[str, Any], Path]:
        encoder = self._encoder()
        return encoder.spec, encoder.weights

    def fill(self, store: VectorStore, kind: str, todo: dict[str, str], root: Path) -> "Filled":
        from embed.engines.fill import fill  # torch, as below
        from embed.engines.prepare import preparer

        encoder = self._encoder()
        encode = encoder.image_features if kind == "image" else encoder.text_features
        prepare = preparer(kind, encoder, root)
        return fill(store, kind, todo, prepare, encode, encoder.device, encoder.batch_size(kind))

    def close(self) -> None:
        """Nothing is held."""

    def _encoder(self) -> "ClipEncoder":
        if self._loaded is None:
            # torch and open_clip take seconds to import, which a run with nothing to do must not spend
            from embed.clip.encoder import load_encoder
            from embed.clip.hardware import choose_device

            device = choose_device(self._wanted)
            self.device = str(device)
            self._say(f"loading {self._request} on {device}")
            self._loaded = load_encoder(
                self._request.model, self._request.pretrained, device, self._request.options, self._request.delta
            )
        return self._loaded
