"""The distinct pictures and texts of a run, and which of them lack a vector."""

from collections.abc import Iterable
from dataclasses import dataclass

from cache import VectorStore, text_key
from embed.clip.prompts import PROMPTS
from embed.data.dataset import Meme
from embed.pictures.hashing import Hashed


@dataclass(frozen=True)
class Wanted:
    """items: {"image" | "text": {key: image or text}}; prompts: keys of zero-shot prompts, counted separately."""

    items: dict[str, dict[str, str]]
    prompts: set[str]
    retry_failed: bool

    @classmethod
    def of(cls, memes: Iterable[Meme], hashed: Hashed, retry_failed: bool) -> "Wanted":
        """The items of the memes, and the prompts."""
        texts = {text_key(meme.text): meme.text for meme in memes}
        prompts = {text_key(text): text for group in PROMPTS.values() for text in group}
        images = {key: image for image, key in hashed.keys.items()}
        return cls({"image": images, "text": texts | prompts}, prompts.keys() - texts.keys(), retry_failed)

    def missing(self, store: VectorStore) -> dict[str, dict[str, str]]:
        """{"image" | "text": items not in the store}."""
        return {kind: self._missing(store, kind) for kind in self.items}

    def _missing(self, store: VectorStore, kind: str) -> dict[str, str]:
        done = store.known(kind)
        if not self.retry_failed:
            done |= store.failures(kind).keys()
        return {key: item for key, item in self.items[kind].items() if key not in done}
