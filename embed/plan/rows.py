"""The rows of the dataset index: keys, token counts, parts, and why a row has no vectors."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from cache import DatasetIndex, VectorStore, text_key
from embed.clip.prompts import PROMPTS
from embed.data.dataset import Meme
from embed.pictures.hashing import Hashed
from embed.plan.settings import EmbedSettings


def reasons(
    memes: Sequence[Meme], hashed: Hashed, failures: dict[str, str], text_failures: dict[str, str]
) -> list[str]:
    """Why each meme has no vectors, "" if it has; failures, text_failures: {key: reason} of pictures and of texts."""

    def reason(meme: Meme) -> str:
        if meme.problem or meme.image in hashed.problems:
            return meme.problem or hashed.problems[meme.image]
        text_failure = text_failures and text_failures.get(text_key(meme.text))
        return failures.get(hashed.keys[meme.image], "") or (f"its text: {text_failure}" if text_failure else "")

    return [reason(meme) for meme in memes]


def without_parts(earlier: DatasetIndex | None, index: DatasetIndex) -> bool:
    """Whether the earlier index has the same rows and is older than parts."""
    return earlier is not None and not earlier.has_parts and _rows(earlier) == _rows(index)


def _rows(index: DatasetIndex) -> list[tuple[str, str, str, int]]:
    return list(zip(index.ids, index.image_keys, index.text_keys, index.labels))


def index_of(
    memes: Sequence[Meme], store: VectorStore, hashed: Hashed, skipped: list[str], source: dict[str, str]
) -> DatasetIndex:
    """The index, without parts."""
    text_keys = [text_key(meme.text) for meme in memes]
    failed = store.failures("text")
    embedded = np.array([key not in failed for key in text_keys])
    tokens = np.zeros(len(memes), np.int32)
    tokens[embedded] = store.token_counts([key for key in text_keys if key not in failed])
    tokenizer = store.spec["tokenizer"]
    cut = (tokens > tokenizer["context_length"]) & (source["long_text"] == "truncate")
    return DatasetIndex(
        ids=[meme.id for meme in memes],
        splits=[meme.split for meme in memes],
        labels=[meme.label for meme in memes],
        images=[meme.image for meme in memes],
        texts=[meme.text for meme in memes],
        image_keys=[hashed.keys.get(meme.image, "") for meme in memes],
        text_keys=text_keys,
        skipped=skipped,
        text_tokens=tokens.tolist(),
        text_cut=cut.astype(int).tolist(),
        image_stamps=[hashed.stamps.get(meme.image, "") for meme in memes],
        spec=store.spec,
        source=source,
        groups=[meme.group for meme in memes],
        agreements=[meme.agreement for meme in memes],
        prompts={label: list(texts) for label, texts in PROMPTS.items()},
    )


def source_of(settings: EmbedSettings) -> dict[str, str]:
    """The index's source: what make's command line can say, without OCR; the spec has the rest."""
    return {
        "data": settings.data,
        **asdict(settings.choices),
        "model": settings.model,
        "pretrained": settings.pretrained,
        **{name: getattr(settings.options, name) for name in ("features", "precision", "long_text")},
    }
