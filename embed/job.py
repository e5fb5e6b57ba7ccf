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
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cache import (
    DatasetIndex,
    UnusableIndex,
    VectorStore,
    data_name,
    index_path,
    parts_path,
    read_index,
    text_key,
    write_index,
)
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.prompts import PROMPTS
from embed.clip.recall import recall_spec, remember_spec
from embed.data.dataset import Meme, read_dataset
from embed.data.parts import assign_parts
from embed.engines.local import ENGINES, Engine, LocalEngine
from embed.ocr.readings import Reading, fill_texts
from embed.pictures.hash_log import HashLog
from embed.pictures.hashing import Hashed, hash_pictures


class EngineUnavailable(ValueError):
    """The engine's packages are not installed."""


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


@dataclass(frozen=True)
class EmbedSettings:
    """data: a folder or a table; images: the folder or URL that pictures are read from, "" for that of the data;
    model, pretrained: open_clip's names; device: one of `embed.clip.options.DEVICES`.

    retry_failed: try again the pictures that an earlier run could not decode; rehash: read every picture again, also
    those whose size and times are unchanged; ocr: read the words of the memes whose text is empty off their pictures;
    delta: what fine-tuning changed of the model, a file of `embed.clip.delta`; engine: one of `embed.engines.local.ENGINES`.
    """

    data: str
    model: str
    pretrained: str = ""
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    options: EncoderOptions = field(default_factory=EncoderOptions)
    retry_failed: bool = False
    rehash: bool = False
    ocr: bool = False
    delta: Path | None = None
    engine: str = ENGINES[0]
    images: str = ""

    @property
    def encoder(self) -> EncoderRequest:
        """Which encoder is wanted."""
        return EncoderRequest(self.model, self.pretrained, self.options, self.delta)

    @property
    def vectors(self) -> Path:
        """The folder of the vector stores."""
        return self.artifacts / "vectors"

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        path = index_path(
            self.artifacts, self.data, self.model, self.pretrained, self.options.features, self.options.long_text
        )
        return path.with_name(f"{path.stem}-finetuned.h5") if self.delta else path


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

    Raises DatasetError, EncoderUnavailable, NothingReadable, OcrUnavailable, SpecMismatch, StoreUnreached,
    TooLittleMemory and, when the disk is full, OSError; what was finished by then stays.
    """
    with closing(_open_engine(settings, say)) as engine:
        return _embed_dataset(settings, engine, say)


def _open_engine(settings: EmbedSettings, say: Callable[[str], None]) -> Engine:
    if settings.engine == "local":
        return LocalEngine(settings.encoder, settings.device, say)
    try:
        from embed.engines.ray_engine import RayEngine  # Ray is an extra
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise EngineUnavailable("engine ray needs Ray: .venv/bin/pip install -r requirements-ray.txt") from error
    return RayEngine(settings.encoder, settings.device, say)


def _embed_dataset(settings: EmbedSettings, engine: Engine, say: Callable[[str], None]) -> Summary:
    root, memes = read_dataset(Path(settings.data), settings.images)
    root = root.absolute()  # a worker may stand in another folder
    noted = HashLog(settings.index, settings.images)
    hints = {} if settings.rehash else _hints(settings) | noted.read()
    hashed = hash_pictures(root, [meme.image for meme in memes if not meme.problem], hints, engine.map, noted.add)
    reading = None
    if settings.ocr:
        memes, reading = fill_texts(root, memes, hashed.keys, settings.artifacts, settings.retry_failed)
    texts = {text_key(meme.text): meme.text for meme in memes}
    prompts = {text_key(text): text for group in PROMPTS.values() for text in group}
    wanted = {"image": {key: image for image, key in hashed.keys.items()}, "text": texts | prompts}
    store, todo = _plan(settings, engine, wanted)
    summary = Summary(memes, store, reading)
    busy = any(todo.values()) or store.damaged
    with store.locked(lambda: say("another job is filling this cache; waiting for it")) if busy else nullcontext():
        _report_damage(store, say)
        transient_failures = _fill(settings, store, engine, root, wanted, prompts.keys() - texts.keys(), summary)
    failures = store.failures("image") | transient_failures
    skipped = [_reason(meme, hashed, failures) for meme in memes]
    summary.skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, skipped, strict=True) if reason]
    if len(summary.skipped) == len(memes):
        raise NothingReadable(_nothing(settings.data, summary.skipped))
    index = _index(settings, summary, hashed, skipped)
    index = replace(index, parts=_parts(settings, index, memes, hashed, root))
    context = store.spec["tokenizer"]["context_length"]
    summary.too_long = len({key for key, count in zip(index.text_keys, index.text_tokens) if count > context})
    write_index(settings.index, index)
    noted.forget()
    return summary


def _parts(
    settings: EmbedSettings, index: DatasetIndex, memes: list[Meme], hashed: Hashed, root: Path
) -> Sequence[int]:
    """The memes' parts, where the data leave a split to be set aside."""
    if "validation" in index.splits:
        return [-1] * len(index)
    last = _last(settings)
    if last is not None and not last.has_parts and _rows(last) == _rows(index):
        return ()  # bundles rest on the split that was carved before there were parts
    record = parts_path(settings.artifacts, data_name(settings.data))
    return assign_parts(memes, hashed.keys, root, record)


def _rows(index: DatasetIndex) -> list[tuple[str, str, str, int]]:
    return list(zip(index.ids, index.image_keys, index.text_keys, index.labels))


def _last(settings: EmbedSettings) -> DatasetIndex | None:
    try:
        return read_index(settings.index)
    except UnusableIndex:
        return None


def _hints(settings: EmbedSettings) -> dict[str, tuple[str, str]]:
    """{image: (stamp, key)} of the last run on these data and pictures, if there was one."""
    last = _last(settings)
    if last is None or last.source.get("images", "") != settings.images:
        return {}
    hints = zip(last.images, last.image_stamps, last.image_keys)
    return {image: (stamp, key) for image, stamp, key in hints if stamp}


def _plan(
    settings: EmbedSettings, engine: Engine, wanted: dict[str, dict[str, str]]
) -> tuple[VectorStore, dict[str, dict[str, str]]]:
    """The store of the encoder's spec, and what it lacks of each kind.

    The spec that an earlier run has noted serves until something is missing; then an encoder is loaded, and its counts.
    """
    noted = recall_spec(settings.vectors / "encoders.json", settings.encoder)
    store = VectorStore(settings.vectors, noted or _load(settings, engine))
    todo = {kind: _missing(store, kind, items, settings.retry_failed) for kind, items in wanted.items()}
    if noted and any(todo.values()) and _load(settings, engine) != noted:
        return _plan(settings, engine, wanted)
    return store, todo


def _load(settings: EmbedSettings, engine: Engine) -> dict[str, Any]:
    spec, weights = engine.load()
    remember_spec(settings.vectors / "encoders.json", settings.encoder, spec, weights)
    return spec


def _fill(
    settings: EmbedSettings,
    store: VectorStore,
    engine: Engine,
    root: Path,
    wanted: dict[str, dict[str, str]],
    prompts: set[str],
    summary: Summary,
) -> dict[str, str]:
    """Embed what the store lacks, now that no other job adds to it; {key: reason} of what may go well another time.

    prompts: the keys that are counted apart.
    """
    transient_failures: dict[str, str] = {}
    for kind, items in wanted.items():
        cached = store.known(kind) & items.keys()
        todo = _missing(store, kind, items, settings.retry_failed)
        if todo:
            transient_failures |= _embed(store, kind, todo, engine, root, summary)
        embedded = store.known(kind) & todo.keys()
        for name, keys in (("distinct", items.keys()), ("cached", cached), ("embedded", embedded)):
            getattr(summary, name)[kind] = len(keys - prompts)
            summary.prompts[name] += len(keys & prompts)
    return transient_failures


def _report_damage(store: VectorStore, say: Callable[[str], None]) -> None:
    for name in store.damaged:
        say(f"{store.folder / name} is damaged or missing; its rows are made again")
    if store.damaged:
        store.forget_damaged()


def _missing(store: VectorStore, kind: str, items: dict[str, str], retry_failed: bool) -> dict[str, str]:
    done = store.known(kind)
    if not retry_failed:
        done |= store.failures(kind).keys()
    return {key: item for key, item in items.items() if key not in done}


def _embed(
    store: VectorStore, kind: str, todo: dict[str, str], engine: Engine, root: Path, summary: Summary
) -> dict[str, str]:
    """Embed {key: image or text}; return {key: reason} of what may go well another time."""
    if kind == "text":
        # texts of like length together: a batch is as long as its longest
        todo = dict(sorted(todo.items(), key=lambda item: len(item[1]), reverse=True))
    engine.load()  # its seconds are not counted
    started = time.monotonic()
    filled = engine.fill(store, kind, todo, root)
    summary.seconds += time.monotonic() - started
    # typeshed has counters count whole things; they add seconds up as well
    summary.spent["decode" if kind == "image" else "tokenise"] += filled.preparing  # type: ignore[assignment]
    summary.spent["model"] += filled.encoding  # type: ignore[assignment]
    summary.device = engine.device
    return filled.transient_failures


def _reason(meme: Meme, hashed: Hashed, failures: dict[str, str]) -> str:
    """Why a meme has no vectors, or ""."""
    if meme.problem or meme.image in hashed.problems:
        return meme.problem or hashed.problems[meme.image]
    return failures.get(hashed.keys[meme.image], "")


def _nothing(data: str, skipped: list[tuple[str, str, str]]) -> str:
    # what is wrong with all of them is said once
    shown = skipped[: 3 if len({reason for _, _, reason in skipped}) > 1 else 1]
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in shown)
    same = "; and so the others" if len(skipped) > len(shown) == 1 else ""
    return f"{data}: none of its {len(skipped)} memes can be used. {first}{same}"


def _index(settings: EmbedSettings, summary: Summary, hashed: Hashed, skipped: list[str]) -> DatasetIndex:
    memes, store = summary.memes, summary.store
    text_keys = [text_key(meme.text) for meme in memes]
    tokens = store.token_counts(text_keys)
    tokenizer = store.spec["tokenizer"]
    cut = (tokens > tokenizer["context_length"]) & (settings.options.long_text == "truncate")
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
            "images": settings.images,
            "model": settings.model,
            "pretrained": settings.pretrained,
            **asdict(settings.options),
            "ocr": summary.reading.engine if summary.reading else "",
        },
        groups=[meme.group for meme in memes],
        prompts={label: list(texts) for label, texts in PROMPTS.items()},
    )
