"""The rows of the dataset index: token counts, and why a row has no vectors."""

from dataclasses import asdict

import numpy as np

from cache import DatasetIndex, KeyColumn, KeyTable, NumberColumn, TextColumn, VectorStore, text_key
from embed.clip.prompts import PROMPTS
from embed.data.memes import Memes
from embed.pictures.keys import Hashed
from embed.plan.settings import EmbedSettings


def reasons(memes: Memes, hashed: Hashed, keys: KeyColumn, failures: dict[str, dict[str, str]]) -> TextColumn:
    """Why each meme has no vectors, "" if it has.

    keys: of the texts; failures: {"image" | "text": {key: reason}}.
    """
    found = _failed_rows(keys, failures["text"], "its text: ") | _failed_rows(hashed.keys, failures["image"])
    for problems in (hashed.problems, memes.problems):
        found |= {row: problems[row] for row in np.flatnonzero(problems.lengths).tolist()}
    return TextColumn.sparse(len(memes), found)


def _failed_rows(keys: KeyColumn, failures: dict[str, str], prefix: str = "") -> dict[int, str]:
    if not failures:
        return {}
    of, reasons = KeyTable(KeyColumn.of(failures)).find(keys), list(failures.values())
    return {row: prefix + reasons[of[row]] for row in np.flatnonzero(of >= 0).tolist()}


def index_of(
    memes: Memes, keys: KeyColumn, hashed: Hashed, skipped: TextColumn, store: VectorStore, source: dict[str, str]
) -> DatasetIndex:
    """The index, without parts; keys: of the texts."""
    embedded = store.has("text", keys)
    tokens = np.zeros(len(memes), np.int32)
    tokens[embedded] = store.token_counts(keys.take(embedded))
    cut = (tokens > store.spec["tokenizer"]["context_length"]) & (source["long_text"] == "truncate")
    return DatasetIndex(
        ids=memes.ids,
        splits=memes.splits,
        labels=memes.labels,
        images=memes.images,
        texts=memes.texts,
        image_keys=hashed.keys,
        text_keys=keys,
        skipped=skipped,
        text_tokens=NumberColumn(tokens),
        text_cut=NumberColumn(cut.astype(np.int8)),
        image_stamps=hashed.stamps,
        spec=store.spec,
        source=source,
        groups=memes.groups,
        agreements=memes.agreements,
        prompts=_prompts(store),
    )


def same_rows(earlier: DatasetIndex | None, index: DatasetIndex) -> bool:
    """Whether the earlier index has the same memes, splits and labels."""
    names = ("ids", "splits", "labels", "image_keys", "text_keys")
    return earlier is not None and all(getattr(earlier, name) == getattr(index, name) for name in names)


def _prompts(store: VectorStore) -> dict[str, list[str]]:
    """The zero-shot prompts that have a vector; {} where a label has none."""
    embedded = {
        label: [text for text, has in zip(texts, store.has("text", [text_key(text) for text in texts])) if has]
        for label, texts in PROMPTS.items()
    }
    return embedded if all(embedded.values()) else {}


def source_of(settings: EmbedSettings) -> dict[str, str]:
    """The index's source: what make's command line can say, without OCR; the spec has the rest."""
    return {
        "data": settings.data,
        **asdict(settings.choices),
        "model": settings.model,
        "pretrained": settings.pretrained,
        **{name: getattr(settings.options, name) for name in ("features", "precision", "long_text")},
    }
