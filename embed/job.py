"""The embedding job: compute the vectors missing from the cache and write the dataset index.

    plan     read the tables, hash the pictures, look up the keys; no model is loaded
    read     with `ocr`, recognise the text of pictures without one; earlier results are reused
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in progress; the next run recomputes it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cache import DatasetIndex, VectorStore, write_index
from embed.base.errors import DatasetError
from embed.data.choices import recall, remember
from embed.data.dataset import Meme, read_dataset
from embed.data.parts import assign_parts
from embed.data.understood import Understood
from embed.engines.adoption import adopt_vectors
from embed.engines.local import Engine, LocalEngine
from embed.ocr.readings import Reading, fill_texts
from embed.pictures.hash_log import HashLog
from embed.pictures.hashing import Hashed, hash_pictures
from embed.plan import rows
from embed.plan.earlier import earlier_index, find_readings, hints, ocr_source, preferring, replaced
from embed.plan.opening import open_store, report_change, report_damage
from embed.plan.settings import EmbedSettings
from embed.plan.wanted import Wanted

if TYPE_CHECKING:
    from embed.engines.writing import Filled  # imports torch


class EngineUnavailable(ValueError):
    """The engine's packages are not installed."""


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


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

    memes: Sequence[Meme]
    store: VectorStore
    work: Embedded
    too_long: int
    skipped: list[tuple[str, str, str]]
    reading: Reading | None = None


def embed_dataset(
    settings: EmbedSettings,
    say: Callable[[str], None] = print,
    known: Mapping[str, tuple[str, str]] | None = None,
    splits: Sequence[str] | None = None,
) -> Summary:
    """Bring the cache and the index up to date with the data folder; `say` prints messages to the user.

    known: {image: (stamp, key)} from another index; splits: one per row, replacing those of the data.
    Raises DatasetError, EncoderUnavailable, EngineUnavailable, NothingReadable, OcrUnavailable, SpecMismatch,
    StoreUnreached, TooLittleMemory and, when the disk is full, OSError; finished work is kept.
    """
    choices = recall(settings.layout.choices(settings.data), settings.data, settings, say)
    settings = replace(settings, **asdict(choices))
    earlier = earlier_index(settings.index)
    settings = replace(settings, options=preferring(settings.options, earlier))
    with closing(_open_engine(settings, say)) as engine:
        return _Run(settings, engine, say, earlier).embed(dict(known or {}), splits)


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


@dataclass(frozen=True)
class _Run:
    """One run. earlier: the index that it replaces."""

    settings: EmbedSettings
    engine: Engine
    say: Callable[[str], None]
    earlier: DatasetIndex | None

    def embed(self, known: dict[str, tuple[str, str]], splits: Sequence[str] | None) -> Summary:
        """`embed_dataset`."""
        settings = self.settings
        readings = find_readings(settings, self.earlier)
        source = rows.source_of(settings) | ocr_source(settings, self.earlier, readings.engine if readings else "")
        root, memes = self._read(source)
        log = HashLog(settings.index, settings.choices.images)
        known = {} if settings.rehash else known | hints(self.earlier, settings.choices.images) | log.read()
        hashed = hash_pictures(
            root, [meme.image for meme in memes if not meme.problem], known, self.engine.map, log.add
        )
        reading = None
        if readings is not None:
            memes, reading = fill_texts(root, memes, hashed.keys, readings, settings.retry_failed)
        memes = _split_as(splits, memes, settings.data)
        store, work, transient_failures = self._fill(root, Wanted.of(memes, hashed, settings.retry_failed))
        reasons = rows.reasons(memes, hashed, store.failures("image") | transient_failures, store.failures("text"))
        skipped = [(meme.id, meme.where, reason) for meme, reason in zip(memes, reasons, strict=True) if reason]
        if len(skipped) == len(memes):
            raise NothingReadable(_none_usable(settings.data, skipped))
        index = rows.index_of(memes, store, hashed, reasons, source)
        index = replace(index, parts=self._parts(index, memes, hashed, root))
        write_index(settings.index, index)
        log.forget()
        return Summary(memes, store, work, _too_long(index, store), skipped, reading)

    def _read(self, source: dict[str, str]) -> tuple[Path, Sequence[Meme]]:
        """The pictures' root and the memes, after saying what was understood and what index is replaced."""
        settings, understood = self.settings, Understood()
        root, memes = read_dataset(Path(settings.data), settings.choices, understood)
        for line in understood.lines(bool(source["ocr"])):
            self.say(line)
        if self.earlier is not None and (other := list(replaced(self.earlier, source))):
            self.say(f"replaced    {settings.index}, made with {' and '.join(other)}")
        remember(settings.layout.choices(settings.data), settings.choices)
        return root.absolute(), memes  # a worker may run in another folder

    def _fill(self, root: Path, wanted: Wanted) -> tuple[VectorStore, Embedded, dict[str, str]]:
        """The store with all vectors, counts, and {key: reason} of the transient failures."""
        store, lacking = open_store(self.settings, self.engine, wanted)
        busy = lacking or store.damaged
        waiting = partial(self.say, "another job is filling this cache; waiting for it")
        with store.locked(waiting) if busy else nullcontext():
            report_damage(store, self.say)
            adopt_vectors(store, wanted.missing(store), root, self.say)
            if change := report_change(self.settings, self.earlier, store, wanted):
                self.say(change)
            return store, *_fill(store, self.engine, root, wanted)

    def _parts(self, index: DatasetIndex, memes: Sequence[Meme], hashed: Hashed, root: Path) -> Sequence[int]:
        """The part of each meme, -1 where the data have a validation split."""
        if "validation" in index.splits:
            return [-1] * len(index)
        if rows.without_parts(self.earlier, index):
            return ()  # existing bundles depend on the split that was carved without parts
        return assign_parts(memes, hashed.keys, root, self.settings.layout.splits(self.settings.data))


def _split_as(splits: Sequence[str] | None, memes: Sequence[Meme], data: str) -> Sequence[Meme]:
    if splits is None:
        return memes
    if len(splits) != len(memes):
        raise DatasetError(f"{data}: {len(memes)} memes, expected {len(splits)}; run `make embed` again")
    return [replace(meme, split=split) for meme, split in zip(memes, splits, strict=True)]


def _too_long(index: DatasetIndex, store: VectorStore) -> int:
    """Distinct texts longer than the context."""
    context = store.spec["tokenizer"]["context_length"]
    return len({key for key, count in zip(index.text_keys, index.text_tokens) if count > context})


def _fill(store: VectorStore, engine: Engine, root: Path, wanted: Wanted) -> tuple[Embedded, dict[str, str]]:
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


def _none_usable(data: str, skipped: list[tuple[str, str, str]]) -> str:
    # a reason that all of them share is reported once
    shown = skipped[: 3 if len({reason for _, _, reason in skipped}) > 1 else 1]
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in shown)
    same = "; the same for all others" if len(skipped) > len(shown) == 1 else ""
    return f"{data}: none of its {len(skipped)} memes can be used. {first}{same}"
