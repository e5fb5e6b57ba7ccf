"""The embedding job: find out what the cache lacks, make it, write the dataset index.

    plan     read the tables, hash the pictures, look the keys up; no model is loaded
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in hand; the next run makes what is missing. It does not know what labels
are for, nor what a head is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import DatasetIndex, VectorStore, content_key, index_path, text_key, write_index
from embed.dataset import Meme, read_dataset
from embed.hashing import UnusableFile, hash_pictures, read_picture
from embed.pictures import UnreadableImage
from embed.recall import recall_spec, remember_spec

if TYPE_CHECKING:
    from embed.encoder import ClipEncoder

DEVICES = ("auto", "cpu", "cuda")
# 32 keeps a few cores' matrix products busy; a GPU needs more to be so.
_BATCH = {"cpu": 32, "cuda": 256}


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


@dataclass(frozen=True)
class EmbedSettings:
    """data: a folder or a CSV; model, pretrained: open_clip's names; device: auto | cpu | cuda.

    retry_failed: try again the pictures that an earlier run could not decode.
    """

    data: str
    model: str
    pretrained: str = ""
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    retry_failed: bool = False

    @property
    def vectors(self) -> Path:
        """The folder of the vector stores."""
        return self.artifacts / "vectors"

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        return index_path(self.artifacts, self.data, self.model, self.pretrained)


@dataclass
class Summary:
    """What a run found and did; the dictionaries have an entry for "image" and one for "text".

    distinct, cached, embedded: numbers of keys; truncated: texts longer than the context;
    skipped: (id, file and row, reason); seconds: spent on embedding, loading not counted.
    """

    memes: list[Meme]
    store: VectorStore
    distinct: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    embedded: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    device: str = ""
    seconds: float = 0.0


def embed_dataset(settings: EmbedSettings, say: Callable[[str], None]) -> Summary:
    """Bring the cache and the index up to date with the data folder; `say` takes notes for the user.

    Raises DatasetError, EncoderUnavailable, NothingReadable, SpecMismatch and, when the disk is full, OSError;
    what was finished by then stays.
    """
    root, memes = read_dataset(Path(settings.data))
    image_keys, problems = hash_pictures(root, [meme.image for meme in memes if not meme.problem])
    wanted: dict[str, dict[str, Any]] = {
        "image": {key: root / image for image, key in image_keys.items()},
        "text": {text_key(meme.text): meme.text for meme in memes},
    }
    encoder = _LazyEncoder(settings, say)
    store, todo = _plan(settings, encoder, wanted)
    _report_damage(store, say)
    summary = Summary(memes, store, distinct={kind: len(items) for kind, items in wanted.items()})
    passing: dict[str, str] = {}
    for kind, items in wanted.items():
        summary.cached[kind] = len(store.known(kind) & items.keys())
        summary.embedded[kind] = 0
        if todo[kind]:
            passing |= _embed(store, kind, todo[kind], encoder.load(), summary)
    failures = store.failures("image") | passing
    skipped = [_reason(meme, image_keys, problems, failures) for meme in memes]
    summary.skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, skipped, strict=True) if reason]
    if len(summary.skipped) == len(memes):
        raise NothingReadable(_nothing(settings.data, summary.skipped))
    tokens = store.token_counts(list(wanted["text"]))
    summary.truncated = int((tokens > store.spec["tokenizer"]["context_length"]).sum())
    write_index(settings.index, _index(settings, memes, image_keys, skipped, store.spec))
    return summary


def _plan(
    settings: EmbedSettings, encoder: "_LazyEncoder", wanted: dict[str, dict[str, Any]]
) -> tuple[VectorStore, dict[str, dict[str, Any]]]:
    """The store of the encoder's spec, and what it lacks of each kind.

    The spec that is remembered serves until something is missing; then the encoder is loaded and its own counts.
    """
    store = VectorStore(settings.vectors, encoder.spec())
    todo = {kind: _missing(store, kind, items, settings.retry_failed) for kind, items in wanted.items()}
    if any(todo.values()) and encoder.load().spec != store.spec:
        return _plan(settings, encoder, wanted)
    return store, todo


class _LazyEncoder:
    """The encoder's spec at once, where an earlier run has noted it; the encoder itself only when it is needed."""

    def __init__(self, settings: EmbedSettings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._memory = settings.vectors / "encoders.json"
        self._loaded: ClipEncoder | None = None

    def spec(self) -> dict[str, Any]:
        if self._loaded is None:
            noted = recall_spec(self._memory, self._settings.model, self._settings.pretrained)
            if noted:
                return noted
        return self.load().spec

    def load(self) -> "ClipEncoder":
        if self._loaded is None:
            # torch and open_clip take seconds to import, which a run with nothing to do must not spend
            from embed.encoder import choose_device, load_encoder

            model, pretrained = self._settings.model, self._settings.pretrained
            device = choose_device(self._settings.device)
            self._say(f"loading {model} {pretrained}".rstrip() + f" on {device}")
            self._loaded = load_encoder(model, pretrained, device)
            remember_spec(self._memory, model, pretrained, self._loaded.spec, self._loaded.weights)
        return self._loaded


def _report_damage(store: VectorStore, say: Callable[[str], None]) -> None:
    for name in store.damaged:
        say(f"{store.folder / name} is damaged or missing; its rows are made again")
    if store.damaged:
        store.forget_damaged()


def _missing(store: VectorStore, kind: str, items: dict[str, Any], retry_failed: bool) -> dict[str, Any]:
    done = store.known(kind)
    if not retry_failed:
        done |= store.failures(kind).keys()
    return {key: item for key, item in items.items() if key not in done}


def _embed(
    store: VectorStore, kind: str, todo: dict[str, Any], encoder: "ClipEncoder", summary: Summary
) -> dict[str, str]:
    """Embed {key: path or text}; return {key: reason} of what may go well another time."""
    from embed.fill import Prepared, fill  # torch, as above

    def picture(key: str, path: Path) -> Prepared:
        try:
            data = read_picture(path)
            if content_key(data) != key:
                return Prepared(key, None, failure="the file changed while the job ran; run it again", lasting=False)
            return Prepared(key, encoder.pixels(data))
        except UnreadableImage as error:
            return Prepared(key, None, failure=str(error))
        except UnusableFile as error:
            return Prepared(key, None, failure=str(error), lasting=False)

    def text(key: str, value: str) -> Prepared:
        return Prepared(key, encoder.tokens([value])[0], encoder.token_count(value))

    prepare, encode = (picture, encoder.encode_images) if kind == "image" else (text, encoder.encode_texts)
    started = time.monotonic()
    filled = fill(store, kind, todo, prepare, encode, _BATCH[encoder.device.type])
    summary.seconds += time.monotonic() - started
    summary.embedded[kind] = filled.added
    summary.device = str(encoder.device)
    return filled.passing


def _reason(meme: Meme, keys: dict[str, str], problems: dict[str, str], failures: dict[str, str]) -> str:
    """Why a meme has no vectors, or ""."""
    if meme.problem or meme.image in problems:
        return meme.problem or problems[meme.image]
    return failures.get(keys[meme.image], "")


def _nothing(data: str, skipped: list[tuple[str, str, str]]) -> str:
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in skipped[:3])
    return f"{data}: none of its {len(skipped)} memes can be used. {first}"


def _index(
    settings: EmbedSettings, memes: list[Meme], image_keys: dict[str, str], skipped: list[str], spec: dict[str, Any]
) -> DatasetIndex:
    return DatasetIndex(
        ids=[meme.id for meme in memes],
        splits=[meme.split for meme in memes],
        labels=[meme.label for meme in memes],
        images=[meme.image for meme in memes],
        texts=[meme.text for meme in memes],
        image_keys=[image_keys.get(meme.image, "") for meme in memes],
        text_keys=[text_key(meme.text) for meme in memes],
        skipped=skipped,
        spec=spec,
        source={"data": settings.data, "model": settings.model, "pretrained": settings.pretrained},
    )
