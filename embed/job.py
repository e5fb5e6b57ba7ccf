"""The embedding job: find out what the cache lacks, make it, write the dataset index.

    plan     read the tables, hash the pictures, look the keys up; no model is loaded
    read     with `ocr`, the words on the pictures whose texts are empty; what was read before is not read again
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in progress; the next run makes what is missing. Knows nothing of heads.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import DatasetIndex, DatasetRequest, Layout, UnusableIndex, VectorStore, read_index, text_key, write_index
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.prompts import PROMPTS
from embed.clip.recall import recall_spec, remember_spec
from embed.data.dataset import Meme, read_dataset
from embed.data.parts import assign_parts
from embed.engines.local import ENGINES, Engine, LocalEngine
from embed.ocr.readings import Reading, fill_texts
from embed.pictures.hash_log import HashLog
from embed.pictures.hashing import Hashed, hash_pictures

if TYPE_CHECKING:
    from embed.engines.fill import Filled  # imports torch


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
        """The encoder that is requested."""
        return EncoderRequest(self.model, self.pretrained, self.options, self.delta)

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        options, finetuned = self.options, self.delta is not None
        request = DatasetRequest(self.data, self.model, self.pretrained, options.features, options.long_text, finetuned)
        return self.layout.index(request)

    @property
    def layout(self) -> Layout:
        """Where results stand."""
        return Layout(self.artifacts)


@dataclass
class Embedded:
    """Vectors by origin; the dictionaries have an entry for "image" and one for "text".

    distinct, cached, embedded: numbers of keys; prompts: the same three, of the zero-shot prompts that no meme's text
    equals; device: where the encoder ran, "" where none was loaded; seconds: spent on embedding, without loading; spent:
    {"decode" | "tokenise" | "model": seconds}, of all cores together on a CPU.
    """

    distinct: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    embedded: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    device: str = ""
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True)
class Summary:
    """What a run found and did.

    work: the vectors; too_long: memes' texts longer than the context; skipped: (id, file and row, reason); reading: what
    reading the pictures' words came to, where that was requested.
    """

    memes: list[Meme]
    store: VectorStore
    work: Embedded
    too_long: int
    skipped: list[tuple[str, str, str]]
    reading: Reading | None = None


def embed_dataset(
    settings: EmbedSettings,
    say: Callable[[str], None] = print,
    hints: Mapping[str, tuple[str, str]] | None = None,
    splits: Sequence[str] | None = None,
) -> Summary:
    """Bring the cache and the index up to date with the data folder; `say` takes notes for the user.

    hints: {image: (stamp, key)} of pictures that another index knows; splits: of every row, in place of those of the data.
    Raises DatasetError, EncoderUnavailable, NothingReadable, OcrUnavailable, SpecMismatch, StoreUnreached,
    TooLittleMemory and, when the disk is full, OSError; what was finished by then stays.
    """
    with closing(_open_engine(settings, say)) as engine:
        return _embed_dataset(settings, engine, say, dict(hints or {}), splits)


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


def _embed_dataset(
    settings: EmbedSettings,
    engine: Engine,
    say: Callable[[str], None],
    hints: dict[str, tuple[str, str]],
    splits: Sequence[str] | None,
) -> Summary:
    root, memes = read_dataset(Path(settings.data), settings.images)
    root = root.absolute()  # a worker may stand in another folder
    log = HashLog(settings.index, settings.images)
    known = {} if settings.rehash else hints | _hints(settings) | log.read()
    hashed = hash_pictures(root, [meme.image for meme in memes if not meme.problem], known, engine.map, log.add)
    reading = None
    if settings.ocr:
        memes, reading = fill_texts(root, memes, hashed.keys, settings.layout.readings, settings.retry_failed)
    if splits is not None:
        memes = [replace(meme, split=split) for meme, split in zip(memes, splits, strict=True)]
    wanted = _Wanted.of(memes, hashed, settings.retry_failed)
    store = _open_store(settings, engine, wanted)
    busy = any(wanted.missing(store).values()) or store.damaged
    with store.locked(lambda: say("another job is filling this cache; waiting for it")) if busy else nullcontext():
        _report_damage(store, say)
        work, transient_failures = _fill(store, engine, root, wanted)
    reasons = _reasons(memes, hashed, store.failures("image") | transient_failures)
    skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, reasons, strict=True) if reason]
    if len(skipped) == len(memes):
        raise NothingReadable(_nothing(settings.data, skipped))
    index = _index(settings, memes, store, hashed, reasons)
    source = index.source | {"ocr": reading.engine if reading else ""}
    index = replace(index, source=source, parts=_parts(settings, index, memes, hashed, root))
    write_index(settings.index, index)
    log.forget()
    context = store.spec["tokenizer"]["context_length"]
    too_long = len({key for key, count in zip(index.text_keys, index.text_tokens) if count > context})
    return Summary(memes, store, work, too_long, skipped, reading)


@dataclass(frozen=True)
class _Wanted:
    """items: {"image" | "text": {key: image, or text}}; prompts: keys of the zero-shot prompts, which are counted apart."""

    items: dict[str, dict[str, str]]
    prompts: set[str]
    retry_failed: bool

    @classmethod
    def of(cls, memes: Iterable[Meme], hashed: Hashed, retry_failed: bool) -> "_Wanted":
        texts = {text_key(meme.text): meme.text for meme in memes}
        prompts = {text_key(text): text for group in PROMPTS.values() for text in group}
        images = {key: image for image, key in hashed.keys.items()}
        return cls({"image": images, "text": texts | prompts}, prompts.keys() - texts.keys(), retry_failed)

    def missing(self, store: VectorStore) -> dict[str, dict[str, str]]:
        """What the store lacks of each kind."""
        return {kind: self._missing(store, kind) for kind in self.items}

    def _missing(self, store: VectorStore, kind: str) -> dict[str, str]:
        done = store.known(kind)
        if not self.retry_failed:
            done |= store.failures(kind).keys()
        return {key: item for key, item in self.items[kind].items() if key not in done}


def _parts(
    settings: EmbedSettings, index: DatasetIndex, memes: list[Meme], hashed: Hashed, root: Path
) -> Sequence[int]:
    """The memes' parts, where the data leave a split to be set aside."""
    if "validation" in index.splits:
        return [-1] * len(index)
    last = _last(settings.index)
    if last is not None and not last.has_parts and _rows(last) == _rows(index):
        return ()  # bundles rest on the split that was carved before there were parts
    return assign_parts(memes, hashed.keys, root, settings.layout.splits(settings.data))


def _rows(index: DatasetIndex) -> list[tuple[str, str, str, int]]:
    return list(zip(index.ids, index.image_keys, index.text_keys, index.labels))


def _last(index: Path) -> DatasetIndex | None:
    try:
        return read_index(index)
    except UnusableIndex:
        return None


def _hints(settings: EmbedSettings) -> dict[str, tuple[str, str]]:
    """{image: (stamp, key)} of the last run on these data and pictures, if there was one."""
    last = _last(settings.index)
    return last.hints if last is not None and last.source.get("images", "") == settings.images else {}


def _open_store(settings: EmbedSettings, engine: Engine, wanted: _Wanted) -> VectorStore:
    """The store of the encoder's spec. The spec that an earlier run has noted serves until something is missing; then an
    encoder is loaded, and its spec counts."""
    layout = settings.layout

    def load() -> dict[str, Any]:
        spec, weights = engine.load()
        remember_spec(layout.encoders, settings.encoder, spec, weights)
        return spec

    noted = recall_spec(layout.encoders, settings.encoder)
    store = VectorStore(layout.vectors, noted or load())
    if noted and any(wanted.missing(store).values()) and (spec := load()) != noted:
        return VectorStore(layout.vectors, spec)
    return store


def _report_damage(store: VectorStore, say: Callable[[str], None]) -> None:
    for name in store.damaged:
        say(f"{store.folder / name} is damaged or missing; its rows are made again")
    if store.damaged:
        store.forget_damaged()


def _fill(store: VectorStore, engine: Engine, root: Path, wanted: _Wanted) -> tuple[Embedded, dict[str, str]]:
    """Embed what the store lacks, now that no other job adds to it; and {key: reason} of the transient failures."""
    work, transient_failures = Embedded(), dict[str, str]()
    missing = wanted.missing(store)
    for kind, items in wanted.items.items():
        cached, todo = store.known(kind) & items.keys(), missing[kind]
        if todo:
            filled, seconds = _embed(store, kind, todo, engine, root)
            transient_failures |= filled.transient_failures
            work.seconds += seconds
            work.spent["decode" if kind == "image" else "tokenise"] += filled.preparing
            work.spent["model"] += filled.encoding
        embedded = store.known(kind) & todo.keys()
        for name, keys in (("distinct", items.keys()), ("cached", cached), ("embedded", embedded)):
            getattr(work, name)[kind] = len(keys - wanted.prompts)
            work.prompts[name] += len(keys & wanted.prompts)
    work.device = engine.device
    return work, transient_failures


def _embed(store: VectorStore, kind: str, todo: dict[str, str], engine: Engine, root: Path) -> "tuple[Filled, float]":
    """Embed {key: image or text}; what that came to, and the seconds it took."""
    if kind == "text":
        # texts of like length together: a batch is as long as its longest
        todo = dict(sorted(todo.items(), key=lambda item: len(item[1]), reverse=True))
    engine.load()  # before the clock starts
    started = time.monotonic()
    return engine.fill(store, kind, todo, root), time.monotonic() - started


def _reasons(memes: Sequence[Meme], hashed: Hashed, failures: dict[str, str]) -> list[str]:
    """Why each meme has no vectors, or ""."""

    def reason(meme: Meme) -> str:
        if meme.problem or meme.image in hashed.problems:
            return meme.problem or hashed.problems[meme.image]
        return failures.get(hashed.keys[meme.image], "")

    return [reason(meme) for meme in memes]


def _nothing(data: str, skipped: list[tuple[str, str, str]]) -> str:
    # what is wrong with all of them is said once
    shown = skipped[: 3 if len({reason for _, _, reason in skipped}) > 1 else 1]
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in shown)
    same = "; and so the others" if len(skipped) > len(shown) == 1 else ""
    return f"{data}: none of its {len(skipped)} memes can be used. {first}{same}"


def _index(
    settings: EmbedSettings, memes: Sequence[Meme], store: VectorStore, hashed: Hashed, skipped: list[str]
) -> DatasetIndex:
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
        },
        groups=[meme.group for meme in memes],
        prompts={label: list(texts) for label, texts in PROMPTS.items()},
    )
