"""The embedding job: find out what the cache lacks, make it, write the dataset index.

    plan     read the tables, hash the pictures, look the keys up; no model is loaded
    read     with `ocr`, the words on the pictures whose texts are empty; what was read before is not read again
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in hand; the next run makes what is missing. It does not know what labels
are for, nor what a head is.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import DatasetIndex, UnusableIndex, VectorStore, content_key, index_path, read_index, text_key, write_index
from embed.dataset import Meme, read_dataset
from embed.hashing import Hashed, UnusableFile, hash_pictures, read_picture
from embed.pictures import UnreadableImage
from embed.profile import Profile
from embed.prompts import PROMPTS
from embed.readings import Reading, fill_texts
from embed.recall import recall_spec, remember_spec

if TYPE_CHECKING:
    from embed.encoder import ClipEncoder


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


@dataclass(frozen=True)
class EmbedSettings:
    """data: a folder or a CSV; model, pretrained: open_clip's names; device: one of `embed.profile.DEVICES`.

    retry_failed: try again the pictures that an earlier run could not decode; rehash: read every picture again, also
    those whose size and times are unchanged; ocr: read the words of the memes whose text is empty off their pictures.
    """

    data: str
    model: str
    pretrained: str = ""
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    profile: Profile = field(default_factory=Profile)
    retry_failed: bool = False
    rehash: bool = False
    ocr: bool = False

    @property
    def vectors(self) -> Path:
        """The folder of the vector stores."""
        return self.artifacts / "vectors"

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        return index_path(
            self.artifacts, self.data, self.model, self.pretrained, self.profile.features, self.profile.long_text
        )


@dataclass
class Summary:
    """What a run found and did; the dictionaries have an entry for "image" and one for "text".

    distinct, cached, embedded: numbers of keys; prompts: the same three, of the zero-shot prompts that no meme's text
    equals; too_long: memes' texts longer than the context; skipped: (id, file and row, reason); seconds: spent on
    embedding, loading not counted; spent: {"decode" | "tokenise" | "model": seconds}, of all cores together on a CPU;
    reading: what reading the pictures' words came to, where that was asked for.
    """

    memes: list[Meme]
    store: VectorStore
    reading: Reading | None = None
    distinct: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    embedded: dict[str, int] = field(default_factory=dict)
    prompts: Counter[str] = field(default_factory=Counter)
    too_long: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    device: str = ""
    seconds: float = 0.0
    spent: Counter[str] = field(default_factory=Counter)


def embed_dataset(settings: EmbedSettings, say: Callable[[str], None]) -> Summary:
    """Bring the cache and the index up to date with the data folder; `say` takes notes for the user.

    Raises DatasetError, EncoderUnavailable, NothingReadable, OcrUnavailable, SpecMismatch, TooLittleMemory and, when
    the disk is full, OSError; what was finished by then stays.
    """
    root, memes = read_dataset(Path(settings.data))
    hints = {} if settings.rehash else _hints(settings.index)
    hashed = hash_pictures(root, [meme.image for meme in memes if not meme.problem], hints)
    reading = None
    if settings.ocr:
        memes, reading = fill_texts(root, memes, hashed.keys, settings.artifacts, settings.retry_failed)
    texts = {text_key(meme.text): meme.text for meme in memes}
    prompts = {text_key(text): text for group in PROMPTS.values() for text in group}
    wanted: dict[str, dict[str, Any]] = {
        "image": {key: root / image for image, key in hashed.keys.items()},
        "text": texts | prompts,
    }
    encoder = _LazyEncoder(settings, say)
    store, todo = _plan(settings, encoder, wanted)
    summary = Summary(memes, store, reading)
    busy = any(todo.values()) or store.damaged
    with store.locked(lambda: say("another job is filling this cache; waiting for it")) if busy else nullcontext():
        _report_damage(store, say)
        passing = _fill(settings, store, encoder, wanted, prompts.keys() - texts.keys(), summary)
    failures = store.failures("image") | passing
    skipped = [_reason(meme, hashed, failures) for meme in memes]
    summary.skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, skipped, strict=True) if reason]
    if len(summary.skipped) == len(memes):
        raise NothingReadable(_nothing(settings.data, summary.skipped))
    index = _index(settings, summary, hashed, skipped)
    context = store.spec["tokenizer"]["context_length"]
    summary.too_long = len({key for key, count in zip(index.text_keys, index.text_tokens) if count > context})
    write_index(settings.index, index)
    return summary


def _hints(index: Path) -> dict[str, tuple[str, str]]:
    """{image: (stamp, key)} of the last run on this data, if there was one."""
    try:
        last = read_index(index)
    except UnusableIndex:
        return {}
    hints = zip(last.images, last.image_stamps, last.image_keys)
    return {image: (stamp, key) for image, stamp, key in hints if stamp}


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


def _fill(
    settings: EmbedSettings,
    store: VectorStore,
    encoder: "_LazyEncoder",
    wanted: dict[str, dict[str, Any]],
    prompts: set[str],
    summary: Summary,
) -> dict[str, str]:
    """Embed what the store lacks, now that no other job adds to it; {key: reason} of what may go well another time.

    prompts: the keys that are counted apart.
    """
    passing: dict[str, str] = {}
    for kind, items in wanted.items():
        cached = store.known(kind) & items.keys()
        todo = _missing(store, kind, items, settings.retry_failed)
        if todo:
            passing |= _embed(store, kind, todo, encoder.load(), summary)
        embedded = store.known(kind) & todo.keys()
        for name, keys in (("distinct", items.keys()), ("cached", cached), ("embedded", embedded)):
            getattr(summary, name)[kind] = len(keys - prompts)
            summary.prompts[name] += len(keys & prompts)
    return passing


class _LazyEncoder:
    """The encoder's spec at once, where an earlier run has noted it; the encoder itself only when it is needed."""

    def __init__(self, settings: EmbedSettings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._memory = settings.vectors / "encoders.json"
        self._request = (settings.model, settings.pretrained, settings.profile)
        self._loaded: ClipEncoder | None = None

    def spec(self) -> dict[str, Any]:
        if self._loaded is None:
            noted = recall_spec(self._memory, *self._request)
            if noted:
                return noted
        return self.load().spec

    def load(self) -> "ClipEncoder":
        if self._loaded is None:
            # torch and open_clip take seconds to import, which a run with nothing to do must not spend
            from embed.encoder import choose_device, load_encoder

            model, pretrained, profile = self._request
            device = choose_device(self._settings.device)
            self._say(f"loading {model} {pretrained}".rstrip() + f" on {device}")
            self._loaded = load_encoder(model, pretrained, device, profile)
            remember_spec(self._memory, *self._request, self._loaded.spec, self._loaded.weights)
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
        return Prepared(key, encoder.tokens(value), encoder.token_count(value))

    started = time.monotonic()
    if kind == "image":
        filled = fill(store, kind, todo, picture, encoder.image_features, encoder.device, encoder.batch_size(kind))
    else:
        # texts of like length together: a batch is as long as its longest
        ordered = dict(sorted(todo.items(), key=lambda item: len(item[1]), reverse=True))
        filled = fill(store, kind, ordered, text, encoder.text_features, encoder.device, encoder.batch_size(kind))
    summary.seconds += time.monotonic() - started
    # typeshed has counters count whole things; they add seconds up as well
    summary.spent["decode" if kind == "image" else "tokenise"] += filled.preparing  # type: ignore[assignment]
    summary.spent["model"] += filled.encoding  # type: ignore[assignment]
    summary.device = str(encoder.device)
    return filled.passing


def _reason(meme: Meme, hashed: Hashed, failures: dict[str, str]) -> str:
    """Why a meme has no vectors, or ""."""
    if meme.problem or meme.image in hashed.problems:
        return meme.problem or hashed.problems[meme.image]
    return failures.get(hashed.keys[meme.image], "")


def _nothing(data: str, skipped: list[tuple[str, str, str]]) -> str:
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in skipped[:3])
    return f"{data}: none of its {len(skipped)} memes can be used. {first}"


def _index(settings: EmbedSettings, summary: Summary, hashed: Hashed, skipped: list[str]) -> DatasetIndex:
    memes, store = summary.memes, summary.store
    text_keys = [text_key(meme.text) for meme in memes]
    tokens = store.token_counts(text_keys)
    tokenizer = store.spec["tokenizer"]
    cut = (tokens > tokenizer["context_length"]) & (settings.profile.long_text == "truncate")
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
        source={
            "data": settings.data,
            "model": settings.model,
            "pretrained": settings.pretrained,
            **asdict(settings.profile),
            "ocr": summary.reading.engine if summary.reading else "",
        },
        groups=[meme.group for meme in memes],
        prompts={label: list(texts) for label, texts in PROMPTS.items()},
    )
