"""The distinct pictures and texts of a run, and which of them lack a vector."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache import KINDS, DatasetIndex, KeyColumn, KeyTable, TextColumn, VectorStore
from embed.clip.prompts import PROMPTS


@dataclass(frozen=True)
class Items:
    """D distinct pictures or texts; keys: (D,), in the order of their first rows."""

    keys: KeyColumn
    items: TextColumn

    @classmethod
    def of(cls, keys: KeyColumn, items: TextColumn) -> "Items":
        """The distinct ones of N rows, without those that have no key."""
        rows = np.flatnonzero(keys.present)
        rows = np.sort(rows[KeyTable(keys.take(rows)).rows])
        return cls(keys.take(rows), items.take(rows)) if len(rows) < len(keys) else cls(keys, items)

    def as_dict(self, rows: np.ndarray) -> dict[str, str]:
        """{key: item} of these rows, (M,) integers or (D,) bool."""
        return dict(zip(self.keys.take(rows), self.items.take(rows)))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Wanted:
    """kinds: {"image" | "text": items}; own: {kind: (D,) bool}, False for zero-shot prompts that equal no meme's text."""

    kinds: Mapping[str, Items]
    own: Mapping[str, np.ndarray]
    retry_failed: bool

    @classmethod
    def of(cls, images: Items, texts: Items, retry_failed: bool) -> "Wanted":
        """These items, and the prompts."""
        prompts = [text for group in PROMPTS.values() for text in group]
        keys = np.concatenate([texts.keys.raw, text_keys(prompts).raw])
        with_prompts = Items.of(KeyColumn(keys), TextColumn.of([*texts.items, *prompts]))
        own = KeyTable(texts.keys).find(with_prompts.keys) >= 0
        return cls(
            {"image": images, "text": with_prompts}, {"image": np.ones(len(images), bool), "text": own}, retry_failed
        )

    def lacking(self, store: VectorStore, kind: str) -> np.ndarray:
        """(D,) bool: which items of a kind have to be embedded."""
        keys = self.kinds[kind].keys
        lacking = ~store.has(kind, keys)
        return lacking if self.retry_failed else lacking & ~store.failed(kind, keys)

    def count(self, store: VectorStore) -> int:
        """How many vectors have to be made."""
        return sum(int(self.lacking(store, kind).sum()) for kind in KINDS)

    def missing(self, store: VectorStore) -> dict[str, dict[str, str]]:
        """{"image" | "text": {key: image or text}} of the items that have to be embedded."""
        return {kind: items.as_dict(self.lacking(store, kind)) for kind, items in self.kinds.items()}


def text_keys(texts: Sequence[str], earlier: DatasetIndex | None = None) -> KeyColumn:
    """The keys of N texts; those of an earlier index with the same texts are taken from it."""
    if earlier is not None and texts == earlier.texts:
        return KeyColumn.of(earlier.text_keys)
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    return KeyColumn(np.frombuffer(digests, np.uint8))
