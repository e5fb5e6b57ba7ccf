"""The embedding job: compute the vectors missing from the cache and write the dataset index.

    plan     read the tables, hash the pictures, look up the keys; no model is loaded
    read     with `ocr`, recognise the text of pictures without one; earlier results are reused
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in progress; the next run recomputes it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import DatasetIndex, DatasetRequest, Layout, UnusableIndex, VectorStore, read_index, text_key, write_index
from embed.base.errors import DatasetError
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.clip.prompts import PROMPTS
from embed.clip.recall import recall_spec, remember_spec
from embed.data.choices import CHOICES, Choices, recall, remember
from embed.data.dataset import Meme, read_dataset
from embed.data.parts import assign_parts
from embed.data.understood import Understood
from embed.engines.adoption import adopt_vectors
from embed.engines.local import ENGINES, Engine, LocalEngine
from embed.ocr.readings import Reading, Readings, fill_texts
from embed.ocr.recognisers import OcrUnavailable, find_recogniser
from embed.pictures.hash_log import HashLog
from embed.pictures.hashing import Hashed, hash_pictures

if TYPE_CHECKING:
    from embed.engines.writing import Filled  # imports torch


class EngineUnavailable(ValueError):
    """The engine's packages are not installed."""


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of a run.

    data: a folder or a table; images, links, columns, label, positive: see `embed.data.choices.Choices`, None to take
    what was given before; model, pretrained: open_clip's names; device: one of `embed.clip.options.DEVICES`;
    retry_failed: retry pictures that an earlier run could not decode; rehash: read every picture, also those with
    unchanged size and times; ocr: fill empty texts by OCR; ocr_lang: the language of its model, "" for RapidOCR's own;
    delta: changes by fine-tuning, a file of `embed.clip.delta`; engine: one of `embed.engines.local.ENGINES`.
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
    images: str | None = None
    links: str | None = None
    columns: str | None = None
    label: str | None = None
    positive: str | None = None
    ocr_lang: str = ""

    @property
    def encoder(self) -> EncoderRequest:
        """The requested encoder."""
        return EncoderRequest(self.model, self.pretrained, self.options, self.delta)

    @property
    def index(self) -> Path:
        """The dataset index that the job writes."""
        options, finetuned = self.options, self.delta is not None
        request = DatasetRequest(self.data, self.model, self.pretrained, options.features, options.long_text, finetuned)
        return self.layout.index(request)

    @property
    def choices(self) -> Choices:
        """What the user says about the data set."""
        return Choices(**{name: getattr(self, name) or "" for name in CHOICES})

    @property
    def layout(self) -> Layout:
        """The paths of the results."""
        return Layout(self.artifacts)


@dataclass
class Embedded:
    """Counts and times of a run; distinct, cached, embedded: {"image" | "text": number of keys}.

    prompts: the same three counts, of zero-shot prompts that equal no meme's text; device: of the encoder, "" if none
    was loaded; seconds: of embedding, without loading the model; spent: {"decode" | "tokenise" | "model": seconds}, on
    a CPU summed over all cores.
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
    """Results of a run.

    too_long: distinct texts longer than the context; skipped: (id, file and row, reason); reading: OCR counts, if
    requested.
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
    """Bring the cache and the index up to date with the data folder; `say` prints messages to the user.

    hints: {image: (stamp, key)} from another index; splits: one per row, replacing those of the data.
    Raises DatasetError, EncoderUnavailable, EngineUnavailable, NothingReadable, OcrUnavailable, SpecMismatch,
    StoreUnreached, TooLittleMemory and, when the disk is full, OSError; finished work is kept.
    """
    choices = recall(settings.layout.choices(settings.data), settings.data, settings, say)
    settings = replace(settings, **asdict(choices))
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
    earlier = _readings(settings)
    understood = Understood()
    root, memes = read_dataset(Path(settings.data), settings.choices, understood)
    for line in understood.lines(settings.ocr):
        say(line)
    remember(settings.layout.choices(settings.data), settings.choices)
    root = root.absolute()  # a worker may run in another folder
    log = HashLog(settings.index, settings.choices.images)
    known = {} if settings.rehash else hints | _hints(settings) | log.read()
    hashed = hash_pictures(root, [meme.image for meme in memes if not meme.problem], known, engine.map, log.add)
    reading = None
    if earlier is not None:
        memes, reading = fill_texts(root, memes, hashed.keys, earlier, settings.retry_failed)
    if splits is not None:
        if len(splits) != len(memes):
            raise DatasetError(f"{settings.data}: {len(memes)} memes, expected {len(splits)}; run `make embed` again")
        memes = [replace(meme, split=split) for meme, split in zip(memes, splits, strict=True)]
    wanted = _Wanted.of(memes, hashed, settings.retry_failed)
    store, lacking = _open_store(settings, engine, wanted)
    busy = lacking or store.damaged
    with store.locked(lambda: say("another job is filling this cache; waiting for it")) if busy else nullcontext():
        _report_damage(store, say)
        adopt_vectors(store, wanted.missing(store), root, say)
        work, transient_failures = _fill(store, engine, root, wanted)
    reasons = _reasons(memes, hashed, store.failures("image") | transient_failures, store.failures("text"))
    skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, reasons, strict=True) if reason]
    if len(skipped) == len(memes):
        raise NothingReadable(_none_usable(settings.data, skipped))
    index = _index(settings, memes, store, hashed, reasons)
    source = index.source | {"ocr": reading.engine if reading else "", "ocr_lang": settings.ocr_lang}
    index = replace(index, source=source, parts=_parts(settings, index, memes, hashed, root))
    write_index(settings.index, index)
    log.forget()
    context = store.spec["tokenizer"]["context_length"]
    too_long = len({key for key, count in zip(index.text_keys, index.text_tokens) if count > context})
    return Summary(memes, store, work, too_long, skipped, reading)


def _readings(settings: EmbedSettings) -> Readings | None:
    """What OCR has read before; None without OCR."""
    if settings.ocr:
        return Readings(settings.layout.readings, find_recogniser(settings.ocr_lang, settings.layout.ocr_models))
    if settings.ocr_lang:
        raise OcrUnavailable(f"OCR_LANG={settings.ocr_lang} says what OCR reads; add OCR=on (--ocr)")
    return None


@dataclass(frozen=True)
class _Wanted:
    """items: {"image" | "text": {key: image or text}}; prompts: keys of zero-shot prompts, counted separately."""

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
        """{"image" | "text": items not in the store}."""
        return {kind: self._missing(store, kind) for kind in self.items}

    def _missing(self, store: VectorStore, kind: str) -> dict[str, str]:
        done = store.known(kind)
        if not self.retry_failed:
            done |= store.failures(kind).keys()
        return {key: item for key, item in self.items[kind].items() if key not in done}


def _parts(
    settings: EmbedSettings, index: DatasetIndex, memes: list[Meme], hashed: Hashed, root: Path
) -> Sequence[int]:
    """The part of each meme, -1 where the data have a validation split."""
    if "validation" in index.splits:
        return [-1] * len(index)
    previous = _previous_index(settings.index)
    if previous is not None and not previous.has_parts and _rows(previous) == _rows(index):
        return ()  # existing bundles depend on the split that was carved without parts
    return assign_parts(memes, hashed.keys, root, settings.layout.splits(settings.data))


def _rows(index: DatasetIndex) -> list[tuple[str, str, str, int]]:
    return list(zip(index.ids, index.image_keys, index.text_keys, index.labels))


def _previous_index(index: Path) -> DatasetIndex | None:
    try:
        return read_index(index)
    except UnusableIndex:
        return None


def _hints(settings: EmbedSettings) -> dict[str, tuple[str, str]]:
    """{image: (stamp, key)} of the previous run with the same data and picture folder."""
    previous = _previous_index(settings.index)
    return (
        previous.hints if previous is not None and previous.source.get("images", "") == settings.choices.images else {}
    )


def _open_store(settings: EmbedSettings, engine: Engine, wanted: _Wanted) -> tuple[VectorStore, bool]:
    """The store of the encoder's spec, and whether it lacks a vector.

    The spec remembered from an earlier run is used while no vector is missing; else the encoder is loaded for its spec.
    """
    layout = settings.layout

    def load() -> dict[str, Any]:
        spec, weights = engine.load()
        remember_spec(layout.encoders, settings.encoder, spec, weights)
        return spec

    recalled = recall_spec(layout.encoders, settings.encoder)
    store = VectorStore(layout.vectors, recalled or load())
    lacking = any(wanted.missing(store).values())
    if recalled and lacking and (spec := load()) != recalled:
        store = VectorStore(layout.vectors, spec)
        lacking = any(wanted.missing(store).values())
    return store, lacking


def _report_damage(store: VectorStore, say: Callable[[str], None]) -> None:
    for name in store.damaged:
        say(f"{store.folder / name} is damaged or missing; its rows are made again")
    if store.damaged:
        store.forget_damaged()


def _fill(store: VectorStore, engine: Engine, root: Path, wanted: _Wanted) -> tuple[Embedded, dict[str, str]]:
    """Embed what is missing from the locked store; also {key: reason} of the transient failures."""
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
    """Embed {key: image or text}; counts and seconds."""
    if kind == "text":
        # sorted by length: a batch is padded to its longest text
        todo = dict(sorted(todo.items(), key=lambda item: len(item[1]), reverse=True))
    engine.load()  # before the clock starts
    started = time.monotonic()
    return engine.fill(store, kind, todo, root), time.monotonic() - started


def _reasons(
    memes: Sequence[Meme], hashed: Hashed, failures: dict[str, str], text_failures: dict[str, str]
) -> list[str]:
    """Why each meme has no vectors, "" if it has."""

    def reason(meme: Meme) -> str:
        if meme.problem or meme.image in hashed.problems:
            return meme.problem or hashed.problems[meme.image]
        text_failure = text_failures and text_failures.get(text_key(meme.text))
        return failures.get(hashed.keys[meme.image], "") or (f"its text: {text_failure}" if text_failure else "")

    return [reason(meme) for meme in memes]


def _none_usable(data: str, skipped: list[tuple[str, str, str]]) -> str:
    # a reason that all of them share is reported once
    shown = skipped[: 3 if len({reason for _, _, reason in skipped}) > 1 else 1]
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in shown)
    same = "; the same for all others" if len(skipped) > len(shown) == 1 else ""
    return f"{data}: none of its {len(skipped)} memes can be used. {first}{same}"


def _index(
    settings: EmbedSettings, memes: Sequence[Meme], store: VectorStore, hashed: Hashed, skipped: list[str]
) -> DatasetIndex:
    text_keys = [text_key(meme.text) for meme in memes]
    failed = store.failures("text")
    embedded = np.array([key not in failed for key in text_keys])
    tokens = np.zeros(len(memes), np.int32)
    tokens[embedded] = store.token_counts([key for key in text_keys if key not in failed])
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
            **asdict(settings.choices),
            "model": settings.model,
            "pretrained": settings.pretrained,
            # what make's command line can say; the spec has the rest
            **{name: getattr(settings.options, name) for name in ("features", "precision", "long_text")},
        },
        groups=[meme.group for meme in memes],
        agreements=[meme.agreement for meme in memes],
        prompts={label: list(texts) for label, texts in PROMPTS.items()},
    )
